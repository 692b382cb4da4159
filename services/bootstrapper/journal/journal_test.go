// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

const (
	cluster = "0011223344556677"
	other   = "ffeeddccbbaa9988"
)

// node is a machine with a disk.
type node struct {
	t          *testing.T
	boot, disk File
	syncs      int
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	return &node{t: t, boot: File(filepath.Join(dir, "run", "journal")), disk: File(filepath.Join(dir, "var", "journal"))}
}

// open is what a service that starts does.
func (n *node) open() *Journal {
	n.t.Helper()
	j, err := Open(n.boot, n.disk, func() error { n.syncs++; return nil })
	if err != nil {
		n.t.Fatal(err)
	}
	return j
}

func (n *node) reboot() {
	n.t.Helper()
	if err := os.Remove(string(n.boot)); err != nil {
		n.t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func wantOther(t *testing.T, err error, says string) {
	t.Helper()
	if !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want ErrOther, %q", err, says)
	}
}

func TestBindsStepByStep(t *testing.T) {
	n := newNode(t)
	j := n.open()
	if j.Cluster() != "" || j.Last() != nil {
		t.Error("a new journal has something")
	}
	// A cluster that was named binds to nothing before the lock.
	must(t, j.Begin(other, "a", "node"), j.Note(api.Step_STEP_LOCK, api.Progress_STATE_STARTED, ""), j.Begin(cluster, "a", "node"))
	must(t, j.Note(api.Step_STEP_LOCK, api.Progress_STATE_STARTED, ""), j.Note(api.Step_STEP_LOCK, api.Progress_STATE_DONE, ""))
	wantOther(t, j.Check(other, "a"), "since it booted, the node belongs to cluster 00112233")
	// Nor does a request before the first mark.
	must(t, j.Check(cluster, "b"), j.Settle(), j.Check(cluster, "b"), j.Mark("files"))
	wantOther(t, j.Check(cluster, "b"), "with other settings")
	must(t, j.Check(cluster, "a"))
	if !j.Marked("files") || j.Marked("x") || n.syncs != 1 {
		t.Errorf("marks are wrong, %d syncs", n.syncs)
	}

	t.Run("after a restart", func(t *testing.T) {
		j := n.open()
		if j.Cluster() != cluster || j.Node() != "node" || !j.Reached(api.Step_STEP_LOCK) || j.Reached(api.Step_STEP_DISK) {
			t.Error("it is forgotten what happened")
		}
		wantOther(t, j.Begin(cluster, "b", "node"), "with other settings")
		wantOther(t, j.Begin(other, "a", "node"), "belongs to cluster")
		must(t, j.Begin(cluster, "a", "node"), j.Settle())
		if !j.Marked("files") {
			t.Error("the mark is gone")
		}
	})
	t.Run("after a reboot", func(t *testing.T) {
		n.reboot()
		j := n.open()
		if j.Cluster() != "" || j.Marked("files") {
			t.Error("the disk's journal is read before it can be")
		}
		must(t, j.Begin(cluster, "b", "node"))
		wantOther(t, j.Settle(), "with other settings")
		must(t, j.Begin(other, "a", "node"))
		wantOther(t, j.Settle(), "the state disk belongs to cluster 00112233")
		must(t, j.Begin(cluster, "a", "node"), j.Settle())
		if !j.Marked("files") {
			t.Error("the mark is gone")
		}
	})
}

func TestMarkNeedsTheDisk(t *testing.T) {
	n := newNode(t)
	j, err := Open(n.boot, n.disk, func() error { return errors.New("no space left") })
	must(t, err, j.Begin(cluster, "a", "node"))
	if err := j.Mark("x"); err == nil || !strings.Contains(err.Error(), "not on the state disk yet") {
		t.Errorf("marked without a disk: %v", err)
	}
	must(t, j.Settle())
	if err := j.Mark("x"); err == nil || !strings.Contains(err.Error(), "no space left") || j.Marked("x") {
		t.Errorf("marked what is not on the disk: %v", err)
	}
	must(t, j.Check(cluster, "b"))
}

func TestBeginsWithoutJournal(t *testing.T) {
	j := newNode(t).open()
	for _, err := range []error{j.Settle(), j.Note(api.Step_STEP_LOCK, api.Progress_STATE_DONE, ""), j.Fail(api.Step_STEP_LOCK, "x")} {
		if err == nil || !strings.Contains(err.Error(), "has not begun") {
			t.Errorf("got %v", err)
		}
	}
}

func TestEntries(t *testing.T) {
	n := newNode(t)
	j := n.open()
	must(t, j.Begin(cluster, "a", "node"), j.Settle())
	for i := range 2 * maxEntries {
		must(t, j.Fail(api.Step_STEP_DISK, fmt.Sprint(i)))
	}
	last := j.Last()
	if last.StepID() != api.Step_STEP_DISK || !last.Failed() || last.Detail != fmt.Sprint(2*maxEntries-1) || last.Time.IsZero() {
		t.Errorf("the last entry is %+v", last)
	}
	for _, f := range []File{n.boot, n.disk} {
		r, err := f.Load()
		must(t, err)
		if diff := cmp.Diff(j.Entries(), r.Entries); diff != "" || len(r.Entries) != maxEntries {
			t.Errorf("%d entries in %s (-want +got):\n%s", len(r.Entries), f, diff)
		}
	}
	// What must not be forgotten does not rest on entries.
	must(t, j.Mark("files"))
	for range maxEntries {
		must(t, j.Note(api.Step_STEP_DISK, api.Progress_STATE_DONE, ""))
	}
	if !j.Marked("files") {
		t.Error("the mark is gone")
	}
}

func TestFileRefuses(t *testing.T) {
	for _, tc := range []struct{ name, content, says string }{
		{"nothing", "", "ends early"},
		{"half", `{"format":"constellation-node-journal/v1","clus`, "ends early"},
		{"another format", `{"format":"x","cluster":"00","entries":[]}`, "not a journal of format"},
		{"no cluster", `{"format":"constellation-node-journal/v1","cluster":"","entries":[]}`, "not a journal of format"},
		{"an unknown field", `{"format":"constellation-node-journal/v1","cluster":"00","entries":[],"x":1}`, "x"},
		{"too large", strings.Repeat(" ", maxFile+1), "more than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			must(t, Replace(string(n.boot), []byte(tc.content)))
			if _, err := Open(n.boot, n.disk, nil); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	if _, err := File(filepath.Join(t.TempDir(), "x")).Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestReplaceKeepsTheOldContent: a file that cannot be replaced is as it was.
func TestReplaceKeepsTheOldContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "file")
	must(t, Replace(path, []byte("old")))
	next := filepath.Join(filepath.Dir(path), ".file.next")
	must(t, os.WriteFile(next, []byte("left by one that was killed"), 0o600), Replace(path, []byte("new")))
	must(t, os.Mkdir(next, 0o700))
	if err := Replace(path, []byte("newer")); err == nil {
		t.Error("no error")
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "new" {
		t.Errorf("the file has %q, %v", content, err)
	}
}
