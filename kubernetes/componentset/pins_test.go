// SPDX-License-Identifier: Apache-2.0

package componentset

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var one, two = "sha256:" + strings.Repeat("1", 64), "sha256:" + strings.Repeat("2", 64)

func TestPins(t *testing.T) {
	pins := Pins{"joinservice": one, "keyservice": two}
	const want = "joinservice sha256:1111111111111111111111111111111111111111111111111111111111111111\n" +
		"keyservice sha256:2222222222222222222222222222222222222222222222222222222222222222\n"
	if got := string(pins.Encode()); got != want {
		t.Errorf("written as\n%s", got)
	}
	got, err := ParsePins([]byte(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pins, got); diff != "" {
		t.Error(diff)
	}
}

func TestParsePinsRefuses(t *testing.T) {
	line := func(name, digest string) string { return name + " " + digest + "\n" }
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":            {"", ErrEmpty},
		"no digest":          {"a\n", ErrPins},
		"a short digest":     {line("a", one[:70]), ErrPins},
		"a name that is not": {line("A", one), ErrPins},
		"cut short":          {strings.TrimSuffix(line("a", one), "\n"), ErrPins},
		"twice":              {line("a", one) + line("a", two), ErrPins},
		"out of order":       {line("b", one) + line("a", two), ErrPins},
		"a blank line":       {line("a", one) + "\n", ErrPins},
		"a word more":        {line("a", one+" b"), ErrPins},
	} {
		if pins, err := ParsePins([]byte(tc.text)); !errors.Is(err, tc.want) || pins != nil {
			t.Errorf("%s: %v, %v", name, pins, err)
		}
	}
}

func TestPinnedSet(t *testing.T) {
	set, err := New("v1.37.2", []Component{
		{Name: "joinservice", Kind: KindImage, Version: "1", Digest: one, Size: 1},
		{Name: "pause", Kind: KindImage, Version: "1", Digest: two, Size: 1},
		{Name: "keyservice", Kind: KindProgram, Version: "1", Digest: two, Size: 1, Image: "pause", Path: "p", InstallPath: "bin/p"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pins Pins
		want string
	}{
		"as built":            {Pins{"joinservice": one}, ""},
		"another":             {Pins{"joinservice": two}, "image joinservice is " + one + ", and not the image that this node's own image was built with: that is " + two},
		"one of two":          {Pins{"joinservice": one, "pause": one}, "image pause is " + two + ", and not the image that this node's own image was built with: that is " + one},
		"missing":             {Pins{"verificationservice": one}, "it has no image verificationservice"},
		"a program, no image": {Pins{"keyservice": two}, "it has no image keyservice"},
	} {
		err := tc.pins.Check(set)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || err.Error() != tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
