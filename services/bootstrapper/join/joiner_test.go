// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation/policy"
)

// candidate is a machine whose ways the test decides.
type candidate struct {
	disk   Disk
	bad    error
	said   []string
	busy   bool
	failed int // how often becoming a node fails
	member bool
	got    []*Ticket
}

func (c *candidate) Disk(context.Context) (Disk, error) { return c.disk, c.bad }
func (c *candidate) Member() bool                       { return c.member }
func (c *candidate) Waits(message string) bool {
	c.said = append(c.said, message)
	return !c.busy
}

func (c *candidate) Become(_ context.Context, t *Ticket) error {
	defer t.Close()
	c.got = append(c.got, t)
	if len(c.got) <= c.failed {
		return errors.New("a step failed")
	}
	c.member = true
	return nil
}

// TestJoiner: the machine waits while it is told of no cluster, says why it is not let in,
// in the service's words, and joins once it is; a step that fails is taken again.
func TestJoiner(t *testing.T) {
	c := newCluster(t)
	if err := c.policy.Load(c.document(false)); err != nil {
		t.Fatal(err)
	}
	at, _ := c.serve(loopback, 0, c.service)
	device := c.device(image)
	a := c.asker(device, at)
	around := a.Provider.(*surroundings)
	named := around.cluster
	around.cluster = nil
	m := &candidate{disk: Disk{UUID: diskA, Fresh: true}, failed: 1}
	var pauses []time.Duration
	j := &Joiner{Asker: a, Machine: m, sleep: func(_ context.Context, d time.Duration) {
		pauses = append(pauses, d)
		switch len(pauses) {
		case 2:
			around.cluster = named
		case 6:
			if err := c.policy.Load(c.document(false, entry(device, "worker-1", policy.Worker))); err != nil {
				t.Error(err)
			}
		}
	}}
	j.Run(t.Context())
	if !m.member || len(m.got) != 2 || len(pauses) != 7 {
		t.Fatalf("a member: %v, with %d tickets, after %d pauses", m.member, len(m.got), len(pauses))
	}
	if len(m.said) != 4 {
		t.Errorf("said %q", m.said)
	}
	for _, said := range m.said {
		want := "This machine asks cluster " + c.id.String()[:8] + " to let it in. 127.0.0.1 refuses: not-listed: "
		if !strings.HasPrefix(said, want) || !strings.Contains(said, "What helps: add the device to the policy's inventory") {
			t.Errorf("said %q, want %q", said, want)
		}
	}
	for i, d := range pauses {
		least, most := firstPause/2, firstPause
		if i < 2 {
			least, most = idlePause, idlePause
		} else {
			for range i - 2 {
				least, most = min(2*least, longestPause/2), min(2*most, longestPause)
			}
		}
		if d < least || d > most {
			t.Errorf("pause %d is %v, want %v to %v", i, d, least, most)
		}
	}
}

// TestJoinerStandsAside: for a node that somebody else makes, and for a disk that cannot
// be used, nobody is asked.
func TestJoinerStandsAside(t *testing.T) {
	for name, tc := range map[string]struct {
		m    *candidate
		says string
	}{
		"a disk that cannot be used": {&candidate{bad: errors.New("no disk has the serial number")}, "the state disk cannot be used: no disk has the serial number"},
		"nobody answers": {&candidate{disk: Disk{UUID: diskA}, busy: true},
			"asks its cluster "},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			ctx, cancel := context.WithCancel(t.Context())
			j := &Joiner{Asker: c.asker(c.device(image)), Machine: tc.m, sleep: func(context.Context, time.Duration) { cancel() }}
			j.Run(ctx)
			if len(tc.m.said) != 1 || !strings.Contains(tc.m.said[0], tc.says) || len(tc.m.got) != 0 {
				t.Errorf("said %q, got %d tickets", tc.m.said, len(tc.m.got))
			}
		})
	}
}
