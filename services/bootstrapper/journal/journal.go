// SPDX-License-Identifier: Apache-2.0

// Package journal is what a node remembers of how it became one: in memory since it
// booted, and on its state disk for good. There is no secret in it.
//
// A journal is bound: to a cluster when the first step begins, and to a request when
// something was made of that which cannot be made otherwise any more. Whoever comes
// with another is refused.
//
// The file in /run tells a bootstrapper that was restarted how far the node is; it is
// gone after a reboot, as is the lock of PCR 15. The file on the disk has the marks:
// what was made there and must not be made again. The disk is authenticated, so the
// file is believed; it is replaced whole, so a power cut leaves the old one or the new.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Format names the file's format.
const Format = "constellation-node-journal/v1"

// maxEntries bounds how many entries are kept: the newest.
const maxEntries = 256

// ErrOther says that a node or its disk is bound to something else.
var ErrOther = errors.New("bound to something else")

// Record is the content of a journal's file.
type Record struct {
	Format string `json:"format"`
	// Cluster is the cluster's identity, in hexadecimal.
	Cluster string `json:"cluster"`
	// Node is the node's name.
	Node string `json:"node"`
	// Request is what the first mark binds to: a hash of the request's settings.
	Request string   `json:"request,omitempty"`
	Marks   []string `json:"marks,omitempty"`
	// Opened is the state disk as it was opened since the machine booted.
	Opened  *Opened `json:"opened,omitempty"`
	Entries []Entry `json:"entries"`
}

// Opened is a state disk, and the generation that it has since it was opened.
type Opened struct {
	UUID   string `json:"uuid"`
	Number uint64 `json:"number"`
	ID     string `json:"id"`
	// KeyVersion is that of the key which opened it.
	KeyVersion uint32 `json:"key_version"`
}

// Entry is something that happened.
type Entry struct {
	Time   time.Time `json:"time"`
	Step   string    `json:"step"`
	State  string    `json:"state"`
	Detail string    `json:"detail,omitempty"`
}

// failed is the state of a step that failed; the others are those of a Progress.
const failed = "FAILED"

// Store keeps a record.
type Store interface {
	// Load returns the record, or an error that is fs.ErrNotExist.
	Load() (*Record, error)
	// Save makes sure that the record is there, whole, whatever happens next.
	Save(*Record) error
}

// Journal is a node's. Its methods may be called at once.
type Journal struct {
	mu      sync.Mutex
	boot    Store
	disk    Store
	sync    func() error
	sinceOn *Record // since the machine booted
	forGood *Record // nil until the disk is there
	request string
}

// Open opens the journal: boot is the store that a reboot empties, disk the one on the
// state disk, which Settle begins to use, and sync brings what was written to that
// disk to it.
func Open(boot, disk Store, sync func() error) (*Journal, error) {
	j := &Journal{boot: boot, disk: disk, sync: sync}
	r, err := boot.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the journal since the boot: %w", err)
	default:
		j.sinceOn = r
	}
	return j, nil
}

// Cluster is what the node is bound to since it booted, or nothing.
func (j *Journal) Cluster() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return ""
	}
	return j.sinceOn.Cluster
}

// Node is the node's name, or nothing.
func (j *Journal) Node() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return ""
	}
	return j.sinceOn.Node
}

// Last is the newest entry since the boot, or nil.
func (j *Journal) Last() *Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil || len(j.sinceOn.Entries) == 0 {
		return nil
	}
	e := j.sinceOn.Entries[len(j.sinceOn.Entries)-1]
	return &e
}

// Entries are those since the boot.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return nil
	}
	return slices.Clone(j.sinceOn.Entries)
}

// Reached says whether a step was done since the boot.
func (j *Journal) Reached(step api.Step) bool {
	done, skipped := state(api.Progress_STATE_DONE), state(api.Progress_STATE_SKIPPED)
	return slices.ContainsFunc(j.Entries(), func(e Entry) bool {
		return e.Step == name(step) && (e.State == done || e.State == skipped)
	})
}

// Begin is called before the first step of each attempt. If the node is bound to
// another cluster, or to another request, the error is ErrOther. Who does not know the
// request, because the state disk does, names none, and nothing for the node; Adopt
// follows once the disk is there.
func (j *Journal) Begin(cluster, request, node string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.check(cluster, request); err != nil {
		return err
	}
	if j.sinceOn == nil || j.sinceOn.Cluster != cluster {
		j.sinceOn = &Record{Format: Format, Cluster: cluster}
	}
	j.request = request
	if node != "" {
		j.sinceOn.Node = node
	}
	return j.boot.Save(j.sinceOn)
}

// Adopt takes from the state disk what Begin was not told.
func (j *Journal) Adopt(request, node string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.forGood == nil {
		return errors.New("the journal is not on the state disk yet")
	}
	if err := j.check(j.sinceOn.Cluster, request); err != nil {
		return err
	}
	j.request, j.sinceOn.Node, j.forGood.Node = request, node, node
	return j.save()
}

// Opening notes a disk that is about to be opened, with the generation that it will have.
func (j *Journal) Opening(o Opened) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return errors.New("the journal has not begun")
	}
	j.sinceOn.Opened = &o
	return j.boot.Save(j.sinceOn)
}

// Opened is the disk that was opened since the machine booted, or nil.
func (j *Journal) Opened() *Opened {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil || j.sinceOn.Opened == nil {
		return nil
	}
	o := *j.sinceOn.Opened
	return &o
}

// Check is Begin's, and changes nothing.
func (j *Journal) Check(cluster, request string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.check(cluster, request)
}

func (j *Journal) check(cluster, request string) error {
	if r := j.sinceOn; r != nil && r.Cluster != cluster && j.locked() {
		return fmt.Errorf("%w: since it booted, the node belongs to cluster %.8s", ErrOther, r.Cluster)
	}
	for _, r := range []*Record{j.sinceOn, j.forGood} {
		if r != nil && r.Cluster == cluster && r.Request != "" && request != "" && r.Request != request {
			return fmt.Errorf("%w: the node became part of this cluster with other settings", ErrOther)
		}
	}
	return nil
}

// locked says whether the first step was done: before, a cluster that was named binds
// to nothing. j.mu is held.
func (j *Journal) locked() bool {
	done, skipped := state(api.Progress_STATE_DONE), state(api.Progress_STATE_SKIPPED)
	return slices.ContainsFunc(j.sinceOn.Entries, func(e Entry) bool {
		return e.Step == name(api.Step_STEP_LOCK) && (e.State == done || e.State == skipped)
	})
}

// Settle is called when the state disk is there. If the disk is bound to another
// cluster or request, the error is ErrOther.
func (j *Journal) Settle() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return errors.New("the journal has not begun")
	}
	r, err := j.disk.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r = &Record{Format: Format, Cluster: j.sinceOn.Cluster, Entries: slices.Clone(j.sinceOn.Entries)}
	case err != nil:
		return fmt.Errorf("read the state disk's journal: %w", err)
	case r.Cluster != j.sinceOn.Cluster:
		return fmt.Errorf("%w: the state disk belongs to cluster %.8s", ErrOther, r.Cluster)
	case r.Request != "" && j.request != "" && r.Request != j.request:
		return fmt.Errorf("%w: the node became part of this cluster with other settings", ErrOther)
	}
	if j.sinceOn.Node == "" {
		j.sinceOn.Node = r.Node
	}
	r.Node = j.sinceOn.Node
	j.forGood = r
	return j.save()
}

// Marked says whether the disk has the mark.
func (j *Journal) Marked(mark string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.forGood != nil && slices.Contains(j.forGood.Marks, mark)
}

// Mark brings to the disk what was written to it, then sets the mark. The first one
// binds the disk to the request.
func (j *Journal) Mark(mark string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.forGood == nil {
		return errors.New("the journal is not on the state disk yet")
	}
	if err := j.sync(); err != nil {
		return fmt.Errorf("write back what is on the state disk: %w", err)
	}
	r := *j.forGood
	if j.request != "" {
		r.Request = j.request
	}
	if !slices.Contains(r.Marks, mark) {
		r.Marks = append(slices.Clone(r.Marks), mark)
	}
	if err := j.disk.Save(&r); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	j.forGood = &r
	j.sinceOn.Request = r.Request
	return j.boot.Save(j.sinceOn)
}

// Note adds an entry.
func (j *Journal) Note(step api.Step, s api.Progress_State, detail string) error {
	return j.add(Entry{Step: name(step), State: state(s), Detail: detail})
}

// Fail adds an entry about a step that failed.
func (j *Journal) Fail(step api.Step, detail string) error {
	return j.add(Entry{Step: name(step), State: failed, Detail: detail})
}

func (j *Journal) add(e Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sinceOn == nil {
		return errors.New("the journal has not begun")
	}
	e.Time = time.Now().UTC().Truncate(time.Millisecond)
	for _, r := range []*Record{j.sinceOn, j.forGood} {
		if r != nil {
			r.Entries = append(r.Entries, e)
			r.Entries = r.Entries[max(0, len(r.Entries)-maxEntries):]
		}
	}
	return j.save()
}

func (j *Journal) save() error {
	if err := j.boot.Save(j.sinceOn); err != nil {
		return err
	}
	if j.forGood == nil {
		return nil
	}
	return j.disk.Save(j.forGood)
}

// name and state are an enum's names without what all of them begin with.
func name(s api.Step) string            { return s.String()[len("STEP_"):] }
func state(s api.Progress_State) string { return s.String()[len("STATE_"):] }

// Step is the step that an entry is about.
func (e Entry) StepID() api.Step { return api.Step(api.Step_value["STEP_"+e.Step]) }

// Failed says whether the entry is about a step that failed.
func (e Entry) Failed() bool { return e.State == failed }
