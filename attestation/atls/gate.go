// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// maxSources is how many sources may wait at one gate at once.
const maxSources = 4096

// limits of a gate. Those that are zero do not limit.
type limits struct {
	slots     int     // inside at once
	perSource int     // inside at once, of one source
	rate      float64 // entries per second, over time
	burst     int     // entries that may follow each other at once, at that rate
	queue     int     // waiting at once, of one source; at least one always may
}

// gate lets callers through one by one, in turn by source, so that a source that
// asks a thousand times waits for the others, and not they for it. It has no
// goroutine of its own.
type gate struct {
	limits

	mu      sync.Mutex
	inside  map[string]int
	total   int // sum over inside
	waiting map[string][]chan struct{}
	turns   []string // the sources that wait, next first
	tokens  float64
	counted time.Time // when tokens was right
	timer   *time.Timer
}

func newGate(l limits) *gate {
	return &gate{limits: l, inside: map[string]int{}, waiting: map[string][]chan struct{}{}, tokens: float64(l.burst), counted: time.Now()}
}

// enter waits for a turn. leave must be called once, when it is over.
func (g *gate) enter(ctx context.Context, source string) (leave func(), err error) {
	g.mu.Lock()
	queue := g.waiting[source]
	if n := len(queue); n > 0 && g.queue > 0 && n >= g.queue || n == 0 && len(g.turns) >= maxSources {
		g.mu.Unlock()
		return nil, &Error{
			Reason: attestation.ReasonBusy, RetryAfter: time.Second,
			Err: attestation.Refuse(attestation.ReasonBusy, "%d others of the same source, and %d sources, are waiting", n, len(g.turns)),
		}
	}
	if len(queue) == 0 {
		g.turns = append(g.turns, source)
	}
	turn := make(chan struct{})
	g.waiting[source] = append(queue, turn)
	g.admit()
	g.mu.Unlock()

	leave = sync.OnceFunc(func() { g.leave(source) })
	select {
	case <-turn:
		return leave, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	if i := slices.Index(g.waiting[source], turn); i >= 0 {
		g.setWaiting(source, slices.Delete(g.waiting[source], i, i+1))
		g.mu.Unlock()
	} else { // admitted in the same moment
		g.mu.Unlock()
		leave()
	}
	return nil, ctx.Err()
}

func (g *gate) leave(source string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.inside[source]--; g.inside[source] == 0 {
		delete(g.inside, source)
	}
	g.admit()
}

// admit lets in whoever may enter now. g.mu is held.
func (g *gate) admit() {
	g.count()
	for g.slots == 0 || g.total < g.slots {
		i := slices.IndexFunc(g.turns, func(s string) bool { return g.perSource == 0 || g.inside[s] < g.perSource })
		if i < 0 {
			return
		}
		if g.rate > 0 && g.tokens < 1 {
			g.wake()
			return
		}
		if g.rate > 0 {
			g.tokens--
		}
		source := g.turns[i]
		queue := g.waiting[source]
		close(queue[0])
		g.total++
		g.inside[source]++
		g.turns = append(slices.Delete(g.turns, i, i+1), source)
		g.setWaiting(source, queue[1:])
	}
}

// setWaiting keeps turns and waiting in step. g.mu is held.
func (g *gate) setWaiting(source string, queue []chan struct{}) {
	if len(queue) > 0 {
		g.waiting[source] = queue
		return
	}
	delete(g.waiting, source)
	g.turns = slices.DeleteFunc(g.turns, func(s string) bool { return s == source })
}

// count adds the tokens that time has brought. g.mu is held.
func (g *gate) count() {
	now := time.Now()
	g.tokens = min(float64(g.burst), g.tokens+g.rate*now.Sub(g.counted).Seconds())
	g.counted = now
}

// wake calls admit when there will be a token. g.mu is held.
func (g *gate) wake() {
	if g.timer != nil {
		return
	}
	wait := time.Duration((1-g.tokens)/g.rate*float64(time.Second)) + time.Microsecond
	g.timer = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.timer = nil
		g.admit()
	})
}

// source is by what connections are told apart for fairness: the IPv4 address, or
// the IPv6 network of 48 bits, which one site commonly has: 65,536 of 64 bits.
func source(a net.Addr) string {
	if a == nil {
		return ""
	}
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return a.Network()
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip.WithZone(""), 48).Masked().String()
}
