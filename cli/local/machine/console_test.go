// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStagesFollowTheConsole(t *testing.T) {
	var passedOn bytes.Buffer
	w := newStageWriter(&passedOn)
	console := "\x1b[2JBdsDxe: loading Boot0001\r\nBdsDxe: starting Boot0001 \"UEFI Misc Device\"\r\n" +
		"EFI stub: Measured initrd data into PCR 9\r\n[    0.000000] Tracing disabled due to lockdown\r\n" +
		"[    2.500000] constellation: root is verified\r\nWelcome to Constellation!\r\n" +
		"[    0.000000] a guest may print anything\r\n"
	// In pieces, as a serial line delivers; the first before anybody listens.
	half := len(console) / 3
	if _, err := w.Write([]byte(console[:half])); err != nil {
		t.Fatal(err)
	}
	var told []Stage
	w.begin(time.Now(), func(s Stage, _ time.Duration) { told = append(told, s) })
	for _, b := range []byte(console[half:]) {
		if _, err := w.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	want := []Stage{StageFirmware, StageLoader, StageKernel, StageInitrd, StageSystem}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if passedOn.String() != console {
		t.Error("the console was not passed on unchanged")
	}
	if w.current() != StageSystem {
		t.Errorf("current stage is %q, want %q", w.current(), StageSystem)
	}
}

func TestStageLinesAreBounded(t *testing.T) {
	w := newStageWriter(nil)
	for range 100 {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
			t.Fatal(err)
		}
	}
	if cap(w.line) > 2*maxLineLength {
		t.Errorf("an endless line takes %d bytes of memory, want at most %d", cap(w.line), 2*maxLineLength)
	}
}

func TestLastLinesCannotSpeakToTheTerminal(t *testing.T) {
	tests := map[string]struct {
		console string
		n       int
		want    string
	}{
		"plain":             {"one\r\ntwo\r\nthree\r\n", 2, "  | two\n  | three"},
		"cursor and colour": {"\x1b[2J\x1b[01;01H\x1b[=3hone\x1b[0m\r\n", 5, "  | one"},
		"window title":      {"\x1b]0;pwned\x07text\n", 5, "  | 0;pwnedtext"},
		"8-bit controls":    {"a\u009b31mb\n", 5, "  | a31mb"},
		"blank lines":       {"\n\n\r\n one\n\n", 5, "  |  one"},
		"nothing":           {"", 5, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, LastLines([]byte(tc.console), tc.n)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLineWriterShowsWholeHarmlessLines(t *testing.T) {
	var shown bytes.Buffer
	w := NewLineWriter(&shown)
	for _, piece := range []string{"\x1b[2J\x1b[01;", "01Hfirm", "ware\r\n\r\n", strings.Repeat("x", 5000), "\nunfinished"} {
		if n, err := w.Write([]byte(piece)); err != nil || n != len(piece) {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	want := "  | firmware\n  | " + strings.Repeat("x", maxLineLength) + "\n"
	if diff := cmp.Diff(want, shown.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRingKeepsTheEnd(t *testing.T) {
	r := newRing(10)
	for range 1000 {
		if _, err := r.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := string(r.Tail()), "cabcabcabc"; got != want {
		t.Errorf("tail is %q, want %q", got, want)
	}
	if r.Total() != 3000 {
		t.Errorf("total is %d, want 3000", r.Total())
	}
	if cap(r.data) > 64 {
		t.Errorf("3000 bytes through a ring of 10 take %d bytes of memory", cap(r.data))
	}
	if _, err := r.Write([]byte(strings.Repeat("z", 100))); err != nil {
		t.Fatal(err)
	}
	if got, want := string(r.Tail()), "zzzzzzzzzz"; got != want {
		t.Errorf("tail is %q, want %q", got, want)
	}
}
