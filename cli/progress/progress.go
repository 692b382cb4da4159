// SPDX-License-Identifier: Apache-2.0

// Package progress shows how far a command is: states of named steps, as lines that
// change on a terminal, as plain lines elsewhere, or as a stream of JSON objects.
//
// Progress goes to standard error, but the stream of JSON is a command's result and goes
// to standard output: one object a line, of type Event.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements/printable"
)

// State is that of a step.
type State string

// States.
const (
	Started State = "started"
	Update  State = "update" // something about a step that goes on
	Done    State = "done"
	Skipped State = "skipped" // it was done before
	Failed  State = "failed"
	// Note is about no step.
	Note State = "note"
	// Result is the last event of a command that succeeded.
	Result State = "result"
)

// Event is one thing that happened.
type Event struct {
	// Time since the command began, in seconds.
	Seconds float64 `json:"seconds"`
	State   State   `json:"state"`
	// Step is what it is about: "init/disk".
	Step string `json:"step,omitempty"`
	// Text is for people.
	Text string `json:"text,omitempty"`
	// Done of Total is how much of the step is done, where that is known.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Result is the command's, in an event with that state.
	Result any `json:"result,omitempty"`
}

// maxText is as much of a text as is shown, in bytes: some come from machines.
const maxText = 500

// Reporter shows events. Its methods may be called concurrently.
type Reporter struct {
	began time.Time
	json  bool
	fancy bool
	out   io.Writer // of JSON
	log   io.Writer // of lines

	mu      sync.Mutex
	current string // the step whose line stands last on the terminal and can be changed
	started map[string]time.Time
}

// New makes a reporter for a command.
func New(cmd *cobra.Command) (*Reporter, error) {
	format, err := command.Output(cmd)
	if err != nil {
		return nil, err
	}
	r := &Reporter{
		began: time.Now(), json: format == command.JSON, out: cmd.OutOrStdout(), log: cmd.ErrOrStderr(), started: map[string]time.Time{},
	}
	if f, ok := r.log.(*os.File); ok {
		r.fancy = term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	}
	return r, nil
}

// Report shows an event.
func (r *Reporter) Report(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Seconds = float64(time.Since(r.began).Milliseconds()) / 1000
	e.Text = printable.Text(strings.ReplaceAll(strings.TrimSpace(e.Text), "\n", "; "), maxText)
	if r.json {
		line, err := json.Marshal(e)
		if err != nil {
			line = fmt.Appendf(nil, `{"state":"failed","text":%q}`, err.Error())
		}
		_, _ = r.out.Write(append(line, '\n'))
		return
	}
	if e.State != Result {
		r.line(e)
	}
}

// Begin says that a step begins.
func (r *Reporter) Begin(step, format string, args ...any) {
	r.Report(Event{State: Started, Step: step, Text: fmt.Sprintf(format, args...)})
}

// Updatef says something about a step that goes on.
func (r *Reporter) Updatef(step, format string, args ...any) {
	r.Report(Event{State: Update, Step: step, Text: fmt.Sprintf(format, args...)})
}

// End says how a step ended.
func (r *Reporter) End(step string, state State, format string, args ...any) {
	r.Report(Event{State: state, Step: step, Text: fmt.Sprintf(format, args...)})
}

// Notef says something for people.
func (r *Reporter) Notef(format string, args ...any) {
	r.Report(Event{State: Note, Text: fmt.Sprintf(format, args...)})
}

// Fail ends a command that failed, in a stream of objects; people see the error anyway.
func (r *Reporter) Fail(err error) {
	if r.json {
		r.Report(Event{State: Failed, Text: err.Error()})
	}
}

// Result ends a command that succeeded: v as JSON, or text for people.
func (r *Reporter) Result(v any, text string) error {
	r.Report(Event{State: Result, Result: v})
	if r.json {
		return nil
	}
	_, err := io.WriteString(r.out, text)
	return err
}

// marks show states on a line.
var marks = map[State]string{Started: "…", Update: "…", Done: "✓", Skipped: "✓", Failed: "✗", Note: " "}

// words show states where a line may be read by programs.
var words = map[State]string{Started: "begin", Update: "     ", Done: "done ", Skipped: "skip ", Failed: "FAIL ", Note: "     "}

func (r *Reporter) line(e Event) {
	text := e.Text
	if e.Total > 0 {
		text = fmt.Sprintf("%s (%d %%)", text, 100*e.Done/e.Total)
	}
	switch e.State {
	case Started:
		r.started[e.Step] = time.Now()
	case Done, Failed:
		if began, ok := r.started[e.Step]; ok {
			text = fmt.Sprintf("%s (%.1f s)", text, time.Since(began).Seconds())
		}
	}
	if !r.fancy {
		if e.State == Update && e.Total > 0 && e.Done < e.Total {
			return // many a second, for a log
		}
		fmt.Fprintf(r.log, "%7.1f s  %s  %-14s %s\n", e.Seconds, words[e.State], e.Step, text)
		return
	}
	// The line of the step that was shown last is overwritten; others stay.
	if r.current != "" && r.current == e.Step {
		fmt.Fprint(r.log, "\r\x1b[K")
	} else if r.current != "" {
		fmt.Fprintln(r.log)
	}
	fmt.Fprintf(r.log, "%s %-14s %s", marks[e.State], e.Step, text)
	r.current = e.Step
	if e.State != Started && e.State != Update {
		fmt.Fprintln(r.log)
		r.current = ""
	}
}
