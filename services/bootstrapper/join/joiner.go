// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Pauses between attempts: from the first to the longest, each half random. When the
// machine was told of no cluster, it asks again after idlePause.
const (
	firstPause   = 2 * time.Second
	longestPause = 30 * time.Second
	idlePause    = 5 * time.Second
)

// Machine is what joins.
type Machine interface {
	// Disk looks at the state disk. An error says why it cannot be used.
	Disk(ctx context.Context) (Disk, error)
	// Waits tells people what the machine waits for. It says false while somebody else
	// makes it a node.
	Waits(message string) bool
	// Become makes it a node with a ticket, which it closes. It returns nil once the
	// machine is a node, and ErrBusy if somebody else is at work.
	Become(ctx context.Context, t *Ticket) error
	// Member says whether the machine is a node.
	Member() bool
}

// ErrBusy says that somebody else makes the machine a node.
var ErrBusy = errors.New("somebody else is at work")

// Joiner has a machine join, again and again until it is a node.
type Joiner struct {
	Asker   *Asker
	Machine Machine

	sleep func(ctx context.Context, d time.Duration) // for tests
}

// Run returns when the machine is a node, or with ctx.
func (j *Joiner) Run(ctx context.Context) {
	pause := firstPause
	for !j.Machine.Member() {
		err := j.try(ctx)
		wait := pause/2 + rand.N(pause/2)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrNoCluster), errors.Is(err, ErrBusy):
			wait, pause = idlePause, firstPause
		default:
			pause = min(2*pause, longestPause)
		}
		if j.rest(ctx, wait); ctx.Err() != nil {
			return
		}
	}
}

func (j *Joiner) rest(ctx context.Context, d time.Duration) {
	if j.sleep != nil {
		j.sleep(ctx, d)
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// try asks once, and becomes a node if there is a ticket.
func (j *Joiner) try(ctx context.Context) error {
	cluster, err := j.Asker.Provider.Cluster(ctx)
	switch {
	case err != nil:
		return err // nobody knows whether there is one: the machine waits as it did
	case cluster == nil:
		return ErrNoCluster
	}
	id := fmt.Sprintf("%x", cluster.ID[:4])
	d, err := j.Machine.Disk(ctx)
	if err != nil {
		j.Machine.Waits(fmt.Sprintf("This machine cannot join cluster %s: the state disk cannot be used: %v", id, err))
		return err
	}
	ticket, err := j.Asker.Ask(ctx, d)
	if err != nil {
		if !j.Machine.Waits(waits(id, d, err)) {
			return ErrBusy
		}
		return err
	}
	return j.Machine.Become(ctx, ticket)
}

// waits is what people are told.
func waits(cluster string, d Disk, err error) string {
	what := "This machine asks cluster " + cluster + " to let it in"
	if !d.Fresh {
		what = "This node asks its cluster " + cluster + " for the key of its disk, or waits for the owner's Recover"
	}
	text := what + ". " + strings.Join(strings.Split(err.Error(), "\n"), "; ")
	if r := (*Refusal)(nil); errors.As(err, &r) {
		text += ". What helps: " + r.Advice
	}
	return text
}
