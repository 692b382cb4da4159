// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"slices"
	"sync"
	"time"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// job is a task at work. It goes on whoever watches.
type job struct {
	name, cluster, key string
	reminder           time.Duration

	mu      sync.Mutex
	events  []*api.Progress
	changed chan struct{} // closed, and made anew, with each event
	ended   bool
	result  *api.Result
	err     error
}

func newJob(name, cluster, key string) *job {
	return &job{name: name, cluster: cluster, key: key, reminder: reminder, changed: make(chan struct{})}
}

// maxEvents bounds what is remembered for those who come later.
const maxEvents = 1024

// observe adds an event. Of updates that follow each other only the last is remembered.
func (j *job) observe(e *api.Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := len(j.events) - 1
	update := api.Progress_STATE_UPDATE
	switch {
	case last >= 0 && e.State == update && j.events[last].State == update && e.Step == j.events[last].Step:
		j.events[last] = e
	case len(j.events) < maxEvents:
		j.events = append(j.events, e)
	}
	j.wake()
}

// wake tells those who watch. j.mu is held.
func (j *job) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// end ends the job.
func (j *job) end(result *api.Result, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended, j.result, j.err = true, result, err
	j.wake()
}

// running says whether the job has not ended.
func (j *job) running() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.ended
}

// reminder is how often the last event is sent again while nothing happens. Whoever
// hears nothing for minutes takes the connection for broken (cli/cluster).
const reminder = 30 * time.Second

// watch sends all events, and the result, until the job or ctx ends.
func (j *job) watch(ctx context.Context, send func(*api.InitResponse) error) error {
	var c cursor
	again := time.NewTicker(j.reminder)
	defer again.Stop()
	reminded := false
	for {
		events, changed, ended := j.next(&c)
		if reminded && len(events) == 0 && c.last != nil && !ended {
			events = []*api.Progress{c.last}
		}
		if reminded = false; len(events) > 0 {
			again.Reset(j.reminder)
		}
		for _, e := range events {
			if err := send(&api.InitResponse{Message: &api.InitResponse_Progress{Progress: e}}); err != nil {
				return err
			}
		}
		switch {
		case !ended:
		case j.err != nil:
			return j.err
		default:
			return send(&api.InitResponse{Message: &api.InitResponse_Result{Result: j.result}})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-again.C:
			reminded = true
		}
	}
}

// cursor is how far somebody has watched.
type cursor struct {
	seen int
	last *api.Progress
}

// next returns what c has not seen. If nothing will follow, the job has ended.
func (j *job) next(c *cursor) (events []*api.Progress, changed <-chan struct{}, ended bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := c.seen
	if from > 0 && j.events[from-1] != c.last {
		from-- // a newer update has taken its place
	}
	events = slices.Clone(j.events[from:])
	c.seen = len(j.events)
	if c.seen > 0 {
		c.last = j.events[c.seen-1]
	}
	return events, j.changed, j.ended
}
