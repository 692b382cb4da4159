// SPDX-License-Identifier: Apache-2.0

// Package gate lets strangers take turns at what a machine can do only so often: make
// a TPM sign, hold evidence, do a handshake.
//
// Turns go round by source, so that a source that asks a thousand times waits for the
// others, and not they for it. A newcomer enters after at most one of each source that
// waits already: with S of them and a rate of R entries in a second it waits at most
// (S+1)/R seconds, and for whoever is inside.
//
// Not guaranteed: anything to those who share a source with a flood, as behind one
// address translation, and fairness between more sources than may wait.
package gate

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// MaxSources is how many sources may wait at one gate at once, where its limits do not
// say less.
const MaxSources = 4096

// Limits of a gate. Those that are zero do not limit.
type Limits struct {
	Slots     int     // inside at once
	PerSource int     // inside at once, of one source
	Rate      float64 // entries per second, over time
	Burst     int     // entries that may follow each other at once, at that rate
	Queue     int     // waiting at once, of one source; at least one always may
	Sources   int     // waiting at once; MaxSources if zero
}

// Busy is returned to those who are turned away because too many wait already. Its
// attestation reason is ReasonBusy.
type Busy struct {
	// RetryAfter is when trying again may help.
	RetryAfter time.Duration
	err        error
}

// Error implements error.
func (e *Busy) Error() string { return e.err.Error() }

// Unwrap makes attestation.ReasonOf find ReasonBusy.
func (e *Busy) Unwrap() error { return e.err }

// Gate lets callers through one by one, in turn by source. It has no goroutine of its own.
type Gate struct {
	limits Limits

	mu      sync.Mutex
	inside  map[string]int
	total   int // sum over inside
	waiting map[string][]chan struct{}
	turns   []string // the sources that wait, next first
	tokens  float64
	counted time.Time // when tokens was right
	timer   *time.Timer
}

// New makes a gate.
func New(l Limits) *Gate {
	if l.Sources == 0 {
		l.Sources = MaxSources
	}
	return &Gate{limits: l, inside: map[string]int{}, waiting: map[string][]chan struct{}{}, tokens: float64(l.Burst), counted: time.Now()}
}

// Limits are what it was made with.
func (g *Gate) Limits() Limits { return g.limits }

// Enter waits for a turn. leave must be called once, when it is over. Errors are the
// context's, and *Busy.
func (g *Gate) Enter(ctx context.Context, source string) (leave func(), err error) {
	g.mu.Lock()
	queue := g.waiting[source]
	if n := len(queue); n > 0 && g.limits.Queue > 0 && n >= g.limits.Queue || n == 0 && len(g.turns) >= g.limits.Sources {
		g.mu.Unlock()
		return nil, &Busy{
			RetryAfter: time.Second,
			err:        attestation.Refuse(attestation.ReasonBusy, "%d others of the same source, and %d sources, are waiting", n, len(g.turns)),
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

func (g *Gate) leave(source string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.inside[source]--; g.inside[source] == 0 {
		delete(g.inside, source)
	}
	g.admit()
}

// admit lets in whoever may enter now. g.mu is held.
func (g *Gate) admit() {
	g.count()
	for g.limits.Slots == 0 || g.total < g.limits.Slots {
		i := slices.IndexFunc(g.turns, func(s string) bool { return g.limits.PerSource == 0 || g.inside[s] < g.limits.PerSource })
		if i < 0 {
			return
		}
		if g.limits.Rate > 0 && g.tokens < 1 {
			g.wake()
			return
		}
		if g.limits.Rate > 0 {
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
func (g *Gate) setWaiting(source string, queue []chan struct{}) {
	if len(queue) > 0 {
		g.waiting[source] = queue
		return
	}
	delete(g.waiting, source)
	g.turns = slices.DeleteFunc(g.turns, func(s string) bool { return s == source })
}

// count adds the tokens that time has brought. g.mu is held.
func (g *Gate) count() {
	now := time.Now()
	g.tokens = min(float64(g.limits.Burst), g.tokens+g.limits.Rate*now.Sub(g.counted).Seconds())
	g.counted = now
}

// wake calls admit when there will be a token. g.mu is held.
func (g *Gate) wake() {
	if g.timer != nil {
		return
	}
	wait := time.Duration((1-g.tokens)/g.limits.Rate*float64(time.Second)) + time.Microsecond
	g.timer = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.timer = nil
		g.admit()
	})
}

// Source is by what connections are told apart for fairness: the IPv4 address, or
// the IPv6 network of 48 bits, which one site commonly has: 65,536 of 64 bits.
func Source(a net.Addr) string {
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
