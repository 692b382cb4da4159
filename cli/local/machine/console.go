// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Stage is a part of a machine's boot, as its console tells.
type Stage string

// Stages in order. A console may skip some.
const (
	StageFirmware Stage = "firmware"         // from power-on
	StageLoader   Stage = "boot loader"      // the firmware starts what the disk brings
	StageKernel   Stage = "kernel"           // the kernel's first word
	StageInitrd   Stage = "initrd"           // the initrd's first word
	StageSystem   Stage = "operating system" // the root file system's service manager runs
)

// stageSigns tells stages by the lines that begin them. A guest can print what it
// likes: stages are shown, nothing is decided by them.
var stageSigns = []struct {
	stage Stage
	sign  *regexp.Regexp
}{
	{StageLoader, regexp.MustCompile(`BdsDxe: starting `)},
	{StageKernel, regexp.MustCompile(`^EFI stub: |^\[ +0\.\d+\] `)},
	{StageInitrd, regexp.MustCompile(`^\[[ \d.]+\] constellation: `)},
	{StageSystem, regexp.MustCompile(`Welcome to |systemd\[1\]: `)},
}

// maxLineLength is how much of one line is looked at.
const maxLineLength = 1024

// A stageWriter watches the console for stages and passes it on.
type stageWriter struct {
	next io.Writer // may be nil

	mu      sync.Mutex
	line    []byte
	passed  int // stageSigns before this index are over
	stage   Stage
	started time.Time
	told    func(Stage, time.Duration) // nil until begin
	pending []func()
}

func newStageWriter(next io.Writer) *stageWriter {
	return &stageWriter{next: next, stage: StageFirmware}
}

// begin sets the power-on time and who is told, and tells of the first stage.
func (w *stageWriter) begin(started time.Time, told func(Stage, time.Duration)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started, w.told = started, told
	told(StageFirmware, 0)
	for _, tell := range w.pending {
		tell()
	}
	w.pending = nil
}

func (w *stageWriter) current() Stage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stage
}

// Write implements io.Writer.
func (w *stageWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	for _, b := range p {
		if b == '\n' {
			w.inspect()
			w.line = w.line[:0]
		} else if len(w.line) < maxLineLength {
			w.line = append(w.line, b)
		}
	}
	w.mu.Unlock()
	if w.next == nil {
		return len(p), nil
	}
	return w.next.Write(p)
}

func (w *stageWriter) inspect() {
	for i := w.passed; i < len(stageSigns); i++ {
		if !stageSigns[i].sign.Match(w.line) {
			continue
		}
		w.passed, w.stage = i+1, stageSigns[i].stage
		stage, now := w.stage, time.Now()
		if w.told == nil {
			w.pending = append(w.pending, func() { w.told(stage, now.Sub(w.started)) })
		} else {
			w.told(stage, now.Sub(w.started))
		}
		return
	}
}

// escapes are the control sequences of a terminal (ECMA-48, section 5.4), as
// firmware likes to send them.
var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])`)

// printable returns a console's text without control sequences and control
// characters, so that a guest cannot speak to the reader's terminal.
func printable(console []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, string(escapes.ReplaceAll(console, nil)))
}

// LastLines returns the last n lines of a console that have any text, for showing
// to people.
func LastLines(console []byte, n int) string {
	var lines []string
	for line := range strings.Lines(printable(console)) {
		if line = strings.TrimRight(line, "\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, "  | "+line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// A LineWriter shows a console to people: whole lines, without anything that would
// move their terminal's cursor or worse. It is not safe for concurrent use.
type LineWriter struct {
	to     io.Writer
	margin string
	line   []byte
}

// NewLineWriter returns a writer that shows what is written to it on to, beside a
// margin that tells it from what the program says.
func NewLineWriter(to io.Writer) *LineWriter { return &LineWriter{to: to, margin: "  | "} }

// NewTextWriter is NewLineWriter without the margin.
func NewTextWriter(to io.Writer) *LineWriter { return &LineWriter{to: to} }

// Write implements io.Writer. A line longer than 1 KiB is cut.
func (w *LineWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b != '\n' && len(w.line) < maxLineLength:
			w.line = append(w.line, b)
		case b == '\n':
			text := printable(w.line)
			w.line = w.line[:0]
			if strings.TrimSpace(text) == "" {
				continue
			}
			if _, err := io.WriteString(w.to, w.margin+text+"\n"); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}
