// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

func TestArgumentsAndEnvironmentAreMoved(t *testing.T) {
	back := returns{}
	c := config{args: []string{"-test.v", "-test.coverprofile=/host/c.out", "--test.run=X", "-test.outputdir=/host"}}
	if diff := cmp.Diff([]string{"-test.v", "-test.coverprofile=/test/returned/coverprofile", "--test.run=X"}, c.arguments(back)); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	env := environment([]string{
		"PATH=/host", "TESTBRIDGE_TEST_ONLY=TestX", "XML_OUTPUT_FILE=/host/test.xml", "COVERAGE_DIR=/host/cov", "TEST_TIMEOUT=60",
	}, back)
	for _, want := range []string{
		"PATH=/usr/sbin:/usr/bin", "TESTBRIDGE_TEST_ONLY=TestX", "XML_OUTPUT_FILE=/test/returned/XML_OUTPUT_FILE",
		"COVERAGE_DIR=/test/returned/COVERAGE_DIR", "TEST_TIMEOUT=45",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("the environment lacks %s: %q", want, env)
		}
	}
	if slices.Contains(env, "PATH=/host") {
		t.Error("the host's PATH is in the guest")
	}
	for name, want := range map[string]string{
		"coverprofile": "/host/c.out", "XML_OUTPUT_FILE": "/host/test.xml", "COVERAGE_DIR/a.dat": "/host/cov/a.dat",
		"COVERAGE_DIR/../../etc/passwd": "", "other": "", "COVERAGE_DIR": "",
	} {
		if got := back.place(name); got != want {
			t.Errorf("%s goes to %q, want %q", name, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1K": 1 << 10, "100G": 100 << 30, "2T": 2 << 40} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "G", "1", "1.5G", "-1G", "0G"} {
		if _, err := parseSize(text); err == nil || !strings.Contains(err.Error(), "is not a number with") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSession plays a guest's part.
func TestSession(t *testing.T) {
	for name, test := range map[string]struct {
		say  func(w *wire.Writer)
		code int
		want string
	}{
		"passes":      {func(w *wire.Writer) { w.Frame(wire.Started, nil); w.Frame(wire.Exit, []byte{0}) }, 0, ""},
		"fails":       {func(w *wire.Writer) { w.Frame(wire.Started, nil); w.Frame(wire.Exit, []byte{3}) }, 3, ""},
		"panics":      {func(w *wire.Writer) { w.Frame(wire.Started, nil) }, 0, errEnded.Error()},
		"cannot run":  {func(w *wire.Writer) { w.Frame(wire.Failed, []byte("no test")) }, 0, "in the guest: no test"},
		"wrong exit":  {func(w *wire.Writer) { w.Frame(wire.Exit, nil) }, 0, "exit code that is none"},
		"wrong frame": {func(w *wire.Writer) { w.Frame(99, nil) }, 0, "a frame of type 99"},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			test.say(wire.NewWriter(w))
			w.Close()
			s := &session{started: make(chan struct{})}
			err = s.receive(r)
			if s.code != test.code || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("code %d, %v; want %d, %q", s.code, err, test.code, test.want)
			}
			if test.want == errEnded.Error() && !errors.Is(err, errEnded) {
				t.Errorf("got %v", err)
			}
		})
	}
}
