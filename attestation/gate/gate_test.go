// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// TestGateBoundsTheRate (V22): a burst, and then so many each second, whoever asks.
func TestGateBoundsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Rate: 5, Burst: 10})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var mu sync.Mutex
		entered := 0
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				leave, err := g.Enter(ctx, fmt.Sprint(i%50))
				if err != nil {
					return
				}
				mu.Lock()
				entered++
				mu.Unlock()
				leave()
			})
		}
		wg.Wait()
		if want := 10 + 5*20; entered < want-1 || entered > want {
			t.Errorf("%d entered in 20 s, want %d", entered, want)
		}
		if len(g.turns)+len(g.waiting)+len(g.inside)+g.total != 0 {
			t.Errorf("the gate remembers those who are gone: %+v", g)
		}
	})
}

// TestGateIsFair (V22): one newcomer comes after at most one of each source that
// waits already, however many of it do.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Rate: 1, Burst: 1})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 3000 {
			wg.Go(func() {
				if leave, err := g.Enter(ctx, fmt.Sprint("stranger ", i%3)); err == nil {
					leave()
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		leave, err := g.Enter(ctx, "friend")
		if err != nil {
			t.Fatal(err)
		}
		leave()
		if waited := time.Since(began); waited > 5*time.Second {
			t.Errorf("the friend waited %v among 3 strangers at 1 per second", waited)
		}
		cancel()
		wg.Wait()
	})
}

func TestGateBoundsWhoIsInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Slots: 4, PerSource: 2})
		var wg sync.WaitGroup
		var mu sync.Mutex
		inside, most := map[string]int{}, map[string]int{}
		for i := range 200 {
			wg.Go(func() {
				source := []string{"a", "b", "c"}[i%3]
				leave, err := g.Enter(t.Context(), source)
				if err != nil {
					t.Error(err)
					return
				}
				defer leave()
				for _, s := range []string{source, "all"} {
					mu.Lock()
					inside[s]++
					most[s] = max(most[s], inside[s])
					mu.Unlock()
				}
				time.Sleep(time.Second) // of the bubble's clock
				for _, s := range []string{source, "all"} {
					mu.Lock()
					inside[s]--
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if most["all"] != 4 || most["a"] > 2 || most["b"] > 2 || most["c"] > 2 {
			t.Errorf("most inside at once: %v", most)
		}
	})
}

// TestGateBoundsASource (V22): a source alone does not get all the slots, and another
// need not wait for it.
func TestGateBoundsASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Slots: 4, PerSource: 2})
		var leaves []func()
		for range 2 {
			leave, err := g.Enter(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		third := func() (func(), error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // of the bubble's clock
			defer cancel()
			return g.Enter(ctx, "a")
		}
		if _, err := third(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the third of one source: %v", err)
		}
		began := time.Now()
		if _, err := g.Enter(t.Context(), "b"); err != nil || time.Since(began) != 0 {
			t.Errorf("the first of another waited %v: %v", time.Since(began), err)
		}
		leaves[0]()
		if _, err := third(); err != nil {
			t.Errorf("the third of one source, after the first: %v", err)
		}
	})
}

func TestGateTurnsAwayWhenTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Slots: 1, Queue: 3})
		ctx, cancel := context.WithCancel(t.Context())
		leave, err := g.Enter(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { g.Enter(ctx, "a") })
		}
		synctest.Wait()
		var e *Busy
		if _, err := g.Enter(ctx, "a"); !errors.As(err, &e) || attestation.ReasonOf(err) != attestation.ReasonBusy || e.RetryAfter == 0 {
			t.Errorf("the fifth of one source: %v", err)
		}
		cancel()
		wg.Wait()
		leave()
		leave() // the second time does nothing
		if g.total != 0 || len(g.inside) != 0 {
			t.Errorf("%d inside", g.total)
		}
	})
}

// TestGateBoundsSources: only so many may wait, but those that do may come again.
func TestGateBoundsSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Slots: 1})
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := g.Enter(ctx, "inside"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range MaxSources {
			wg.Go(func() { g.Enter(ctx, fmt.Sprint(i)) })
		}
		synctest.Wait()
		var e *Busy
		if _, err := g.Enter(ctx, "one more"); !errors.As(err, &e) || attestation.ReasonOf(err) != attestation.ReasonBusy || e.RetryAfter == 0 {
			t.Errorf("a source more than may wait: %v", err)
		}
		short, stop := context.WithTimeout(ctx, time.Second) // of the bubble's clock
		defer stop()
		if _, err := g.Enter(short, "0"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a source that waits already: %v", err)
		}
		cancel()
		wg.Wait()
	})
}

func TestSource(t *testing.T) {
	for _, tc := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.1:2"},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:2"},
		{"[2001:db8::1]:1", "[2001:db8::ffff:2]:9"},
		{"[2001:db8:0:1::1]:1", "[2001:db8:0:ffff::1]:1"},
		{"[fe80::1%lo]:1", "[fe80::2%eth0]:1"},
	} {
		a, _ := net.ResolveTCPAddr("tcp", tc.a)
		b, _ := net.ResolveTCPAddr("tcp", tc.b)
		if Source(a) != Source(b) {
			t.Errorf("%s and %s are two sources, %q and %q", tc.a, tc.b, Source(a), Source(b))
		}
	}
	a, b := &net.TCPAddr{IP: net.ParseIP("2001:db8::1")}, &net.TCPAddr{IP: net.ParseIP("2001:db8:1::1")}
	if Source(a) == Source(b) {
		t.Errorf("two networks are one source, %q", Source(a))
	}
}
