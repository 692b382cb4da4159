// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

func reporter(mode func(*Reporter)) (r *Reporter, out, log *bytes.Buffer) {
	out, log = &bytes.Buffer{}, &bytes.Buffer{}
	r = &Reporter{began: time.Now(), out: out, log: log, started: map[string]time.Time{}}
	mode(r)
	return r, out, log
}

// story is what a command may report.
func story(t *testing.T, r *Reporter) {
	t.Helper()
	r.Begin("disk", "formatting")
	r.Report(Event{State: Update, Step: "disk", Text: "writing", Done: 1, Total: 4})
	r.End("disk", Done, "formatted")
	r.End("keys", Skipped, "made before")
	r.Begin("node", "waiting")
	r.Notef("a \x1b[31mnote\nof two lines")
	r.End("node", Failed, "it is gone")
	if err := r.Result(map[string]int{"answer": 42}, "the answer is 42\n"); err != nil {
		t.Fatal(err)
	}
}

func TestPlainLines(t *testing.T) {
	r, out, log := reporter(func(*Reporter) {})
	story(t, r)
	if out.String() != "the answer is 42\n" {
		t.Errorf("standard output is %q", out)
	}
	got := regexp.MustCompile(`\d+\.\d s`).ReplaceAllString(log.String(), "N s")
	want := strings.Join([]string{
		"    N s  begin  disk           formatting",
		"    N s  done   disk           formatted (N s)",
		"    N s  skip   keys           made before",
		"    N s  begin  node           waiting",
		"    N s                        a ?[31mnote; of two lines",
		"    N s  FAIL   node           it is gone (N s)",
		"",
	}, "\n")
	if got != want {
		t.Errorf("lines are\n%s\nwant\n%s", got, want)
	}
}

func TestTerminal(t *testing.T) {
	r, _, log := reporter(func(r *Reporter) { r.fancy = true })
	story(t, r)
	got := regexp.MustCompile(`\d+\.\d s`).ReplaceAllString(log.String(), "N s")
	want := "… disk           formatting" +
		"\r\x1b[K… disk           writing (25 %)" +
		"\r\x1b[K✓ disk           formatted (N s)\n" +
		"✓ keys           made before\n" +
		"… node           waiting" +
		"\n                 a ?[31mnote; of two lines\n" +
		"✗ node           it is gone (N s)\n"
	if got != want {
		t.Errorf("the terminal gets\n%q\nwant\n%q", got, want)
	}
}

func TestStreamOfObjects(t *testing.T) {
	r, out, log := reporter(func(r *Reporter) { r.json = true })
	story(t, r)
	if log.Len() > 0 {
		t.Errorf("standard error is %q", log)
	}
	var events []Event
	for line := range strings.Lines(out.String()) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		events = append(events, e)
	}
	if len(events) != 8 || events[1].Done != 1 || events[1].Total != 4 || events[6].State != Failed || events[7].State != Result {
		t.Errorf("events are %+v", events)
	}
	if result, ok := events[7].Result.(map[string]any); !ok || result["answer"] != 42.0 {
		t.Errorf("the result is %v", events[7].Result)
	}
}
