// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a verdict may take to show in a log that says nothing else of it.
const patience = 20 * time.Second

// Record is a line of an audit log.
type Record map[string]any

// has says whether a record has all of these attributes. Of a text the record's may be
// longer: what follows the reason is for people.
func (r Record) has(want Record) bool {
	for key, value := range want {
		got, ok := r[key].(string)
		text, isText := value.(string)
		if !ok || !isText || got != text && !(key == "error" && strings.Contains(got, text)) {
			return false
		}
	}
	return true
}

// Log is a service's audit log, as far as it was written to this. What is written twice,
// for whoever reads it had to begin anew, is there once.
type Log struct {
	// Patience is how long what is awaited may take to show; 20 seconds if zero.
	Patience time.Duration

	mu      sync.Mutex
	rest    []byte
	seen    map[string]bool
	records []Record
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.add(string(line))
		l.rest = bytes.Clone(rest)
	}
}

// add is for lines that are records: they have a time, which no two share with all else.
func (l *Log) add(line string) {
	var r Record
	if l.seen[line] || json.Unmarshal([]byte(line), &r) != nil || r["verdict"] == nil {
		return
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[line] = true
	l.records = append(l.records, r)
}

// Cut forgets a line that is not whole: whoever wrote it begins anew.
func (l *Log) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = nil
}

// Mark is a place in the log: its end.
func (l *Log) Mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

// Since are the records behind a mark.
func (l *Log) Since(mark int) []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Record(nil), l.records[mark:]...)
}

// Find looks for a record behind a mark.
func (l *Log) Find(mark int, want Record) (Record, bool) {
	for _, r := range l.Since(mark) {
		if r.has(want) {
			return r, true
		}
	}
	return nil, false
}

// Await waits for a record behind a mark.
func (l *Log) Await(t testing.TB, mark int, want Record) Record {
	t.Helper()
	limit := l.Patience
	if limit == 0 {
		limit = patience
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if r, ok := l.Find(mark, want); ok {
			return r
		}
		if t.Context().Err() != nil || time.Since(began) > limit {
			t.Fatalf("the audit log has no %v, but:\n%s", want, l.show(mark))
		}
	}
}

// Never wants no such record behind a mark.
func (l *Log) Never(t testing.TB, mark int, wrong Record) {
	t.Helper()
	if r, ok := l.Find(mark, wrong); ok {
		t.Errorf("the audit log has %v", r)
	}
}

// Nothing wants no record behind a mark.
func (l *Log) Nothing(t testing.TB, mark int) {
	t.Helper()
	if len(l.Since(mark)) > 0 {
		t.Errorf("the audit log has:\n%s", l.show(mark))
	}
}

func (l *Log) show(mark int) string {
	var text strings.Builder
	for _, r := range l.Since(mark) {
		fmt.Fprintf(&text, "%v\n", r)
	}
	return text.String()
}
