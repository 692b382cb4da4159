// SPDX-License-Identifier: Apache-2.0

package managed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/constellation-os/constellation/keys"
)

// Limits bound the calls to one backend.
type Limits struct {
	// Attempt is how long one attempt may take, Total a call with all its attempts
	// and the pauses between them. The caller's context may end it earlier.
	Attempt, Total time.Duration
	// Concurrent is how many attempts may be under way. One that hangs counts until
	// the backend lets go of it, even if its caller was told long ago.
	Concurrent int
	// Failures is after how many failures in a row the backend is left alone, and
	// Cooldown for how long. Then one attempt finds out whether it is back.
	Failures int
	Cooldown time.Duration
	// FirstPause and LastPause bound the pauses between attempts, which double.
	FirstPause, LastPause time.Duration
	// Observe, if set, is told of each attempt; class is "" if it succeeded.
	Observe func(operation string, class keys.Class, took time.Duration)
}

// DefaultLimits fit a KMS in the same data centre.
func DefaultLimits() Limits {
	return Limits{
		Attempt: 3 * time.Second, Total: 10 * time.Second, Concurrent: 16,
		Failures: 10, Cooldown: 5 * time.Second,
		FirstPause: 50 * time.Millisecond, LastPause: time.Second,
	}
}

// guard is a circuit breaker with retries and a bound on concurrency.
type guard struct {
	limits Limits
	slots  chan struct{}

	mu       sync.Mutex
	failures int       // in a row
	failure  error     // the last of them
	until    time.Time // left alone until then
	probing  bool      // one attempt is finding out
}

func newGuard(l Limits) *guard {
	return &guard{limits: l, slots: make(chan struct{}, l.Concurrent)}
}

// call runs f within the limits. f may outlive the call; discard then gets what it returned.
func call[T any](ctx context.Context, g *guard, operation string, discard func(T), f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, g.limits.Total)
	defer cancel()
	pause := g.limits.FirstPause
	var last error
	for {
		out, err := try(ctx, g, operation, discard, f)
		if err != nil && ctx.Err() != nil && last != nil {
			// An attempt that had no time left says less than the one before.
			err = last
		}
		if err == nil || !retryable(err) || ctx.Err() != nil {
			return out, wrapOperation(operation, err)
		}
		last = err
		// Half of the pause is random, so that callers do not come back all at once.
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return out, wrapOperation(operation, err)
		}
		pause = min(2*pause, g.limits.LastPause)
	}
}

func wrapOperation(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// errOpen is why an attempt was not made.
var errOpen = errors.New("it failed repeatedly and is left alone for a while")

func retryable(err error) bool {
	if errors.Is(err, errOpen) {
		return false
	}
	switch keys.ClassOf(err) {
	case keys.ClassUnreachable, keys.ClassTimeout, keys.ClassThrottled:
		return true
	}
	return false
}

type outcome[T any] struct {
	value T
	err   error
}

func try[T any](ctx context.Context, g *guard, operation string, discard func(T), f func(context.Context) (T, error)) (none T, err error) {
	probe, err := g.enter()
	if err != nil {
		return none, err
	}
	if err := g.slot(ctx, probe); err != nil {
		g.leave(probe, !probe, err)
		return none, err
	}
	attempt, cancel := context.WithTimeout(ctx, g.limits.Attempt)
	defer cancel()
	began := time.Now()
	done, gone := make(chan outcome[T]), make(chan struct{})
	go func() {
		defer func() { <-g.slots }()
		value, err := f(attempt)
		select {
		case done <- outcome[T]{value, err}:
		case <-gone:
			if discard != nil {
				discard(value)
			}
		}
	}()
	var out outcome[T]
	select {
	case out = <-done:
	case <-attempt.Done():
		close(gone)
		out.err = attempt.Err()
	}
	took := time.Since(began)
	out.err = classify(out.err, took)
	g.leave(probe, ctx.Err() != nil && took < g.limits.Attempt, out.err)
	if g.limits.Observe != nil {
		g.limits.Observe(operation, keys.ClassOf(out.err), took)
	}
	return out.value, out.err
}

func classify(err error, took time.Duration) error {
	var classed *keys.Error
	switch {
	case err == nil || errors.As(err, &classed):
		return err
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return keys.Errorf(keys.ClassTimeout, "no answer after %v: %w", took.Round(time.Millisecond), err)
	}
	return &keys.Error{Class: keys.ClassInternal, Err: err}
}

// slot waits for a free one; an attempt that finds out does not, for what is
// under way then is what hangs.
func (g *guard) slot(ctx context.Context, probe bool) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	if probe {
		return keys.Errorf(keys.ClassUnreachable, "%w; the calls that hang still hang", errOpen)
	}
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return keys.Errorf(keys.ClassThrottled, "%d calls were under way already", g.limits.Concurrent)
	}
}

// enter says whether an attempt may be made, and whether it is the one that finds out.
func (g *guard) enter() (probe bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures < g.limits.Failures {
		return false, nil
	}
	if g.probing || time.Now().Before(g.until) {
		return false, keys.Errorf(keys.ClassUnreachable, "%w; at last: %w", errOpen, g.failure)
	}
	g.probing = true
	return true, nil
}

// leave counts. What a caller broke off says nothing about the backend.
func (g *guard) leave(probe, brokenOff bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	}
	class := keys.ClassOf(err)
	switch {
	case brokenOff:
	case class == keys.ClassUnreachable || class == keys.ClassTimeout:
		g.failures++
		g.failure = err
		g.until = time.Now().Add(g.limits.Cooldown)
	default:
		// An answer, even a refusal, shows that somebody is there.
		g.failures = 0
	}
}
