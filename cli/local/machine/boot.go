// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// BootOptions bound how long a machine may take to boot. Zero fields take the
// default named beside them.
type BootOptions struct {
	// Deadline bounds one attempt as a whole. Default 10 minutes.
	Deadline time.Duration
	// Stall is how long the machine may neither read from its disk nor write to its
	// console before it counts as stuck. Default 2 minutes.
	Stall time.Duration
	// Attempts is how often a stuck machine is started in all. Default 2.
	Attempts int
	// Progress is told of each attempt's stages as they begin. It may be nil.
	Progress func(Progress)
}

// Progress is one step of a boot.
type Progress struct {
	Attempt      int // from 1
	Stage        Stage
	Elapsed      time.Duration // since this attempt's power-on
	Acceleration Acceleration
}

func (o BootOptions) withDefaults() BootOptions {
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Minute
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	if o.Attempts == 0 {
		o.Attempts = 2
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

// Causes of a [BootError].
var (
	// ErrStuck says that a machine made no progress.
	ErrStuck = errors.New("the machine is stuck")
	// ErrDeadline says that a machine was not ready in time.
	ErrDeadline = errors.New("the machine was not ready in time")
	// ErrEnded says that a machine ended before it was ready.
	ErrEnded = errors.New("the machine ended before it was ready")
)

// A BootError says why a machine did not get ready.
type BootError struct {
	// Cause is one of [ErrStuck], [ErrDeadline] and [ErrEnded], or what ready returned.
	Cause error
	// Exit is how the machine ended, for [ErrEnded].
	Exit Exit
	// Stage is the last that began.
	Stage   Stage
	Attempt int
	Elapsed time.Duration
	// Console is the end of the console.
	Console []byte
}

func (e *BootError) Error() string {
	text := fmt.Sprintf("%v (after %.0f s, in stage %q, attempt %d)", e.Cause, e.Elapsed.Seconds(), e.Stage, e.Attempt)
	if e.Exit.Reason != "" {
		text += ": " + e.Exit.Reason
	}
	if e.Exit.Err != nil {
		text += ": " + e.Exit.Err.Error()
	}
	return text + "\nThe console's last lines:\n" + LastLines(e.Console, 25)
}

func (e *BootError) Unwrap() error { return e.Cause }

// Boot starts a machine and waits until ready returns, whose context ends when
// the machine does, is stuck, or runs out of time. A stuck machine is started
// afresh, a bounded number of times. On success the machine runs on, until ctx
// ends or it is stopped; on failure, a [*BootError], it is gone.
func Boot(ctx context.Context, c Config, o BootOptions, ready func(context.Context, *Machine) error) (*Machine, error) {
	o = o.withDefaults()
	for attempt := 1; ; attempt++ {
		m, err := bootOnce(ctx, c, o, attempt, ready)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, ErrStuck) || attempt >= o.Attempts || ctx.Err() != nil {
			return nil, err
		}
	}
}

func bootOnce(ctx context.Context, c Config, o BootOptions, attempt int, ready func(context.Context, *Machine) error) (*Machine, error) {
	stages := newStageWriter(c.Console)
	c.Console = stages
	m, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	stages.begin(m.Started(), func(s Stage, elapsed time.Duration) {
		o.Progress(Progress{Attempt: attempt, Stage: s, Elapsed: elapsed, Acceleration: m.Acceleration()})
	})

	bounded, cancel := context.WithTimeoutCause(ctx, o.Deadline, ErrDeadline)
	defer cancel()
	watched, giveUp := context.WithCancelCause(bounded)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		m.watch(watched, o.Stall, giveUp)
	}()
	err = ready(watched, m)
	cause := context.Cause(watched)
	giveUp(nil)
	<-watching
	if err == nil {
		return m, nil
	}
	if errors.Is(err, errMachineEnded) {
		<-m.Done() // which takes a moment more
	}
	failure := &BootError{Cause: err, Stage: stages.current(), Attempt: attempt, Elapsed: time.Since(m.Started())}
	if cause != nil {
		failure.Cause = cause
	}
	select {
	case <-m.Done():
		failure.Exit = m.exit
		if !errors.Is(cause, ErrStuck) && ctx.Err() == nil {
			failure.Cause = ErrEnded
		}
	default:
		m.Stop()
	}
	failure.Console = m.ConsoleTail()
	return nil, failure
}

// watchInterval is how often a machine is looked at, at least.
const watchInterval = time.Second

// watch cancels when the machine has ended or made no progress for too long.
func (m *Machine) watch(ctx context.Context, stall time.Duration, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(min(watchInterval, stall/4))
	defer ticker.Stop()
	type sign struct{ console, disk int64 }
	var last sign
	lastChange := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.Done():
			cancel(ErrEnded)
			return
		case <-ticker.C:
		}
		now := sign{console: m.console.Total(), disk: last.disk}
		if n, err := m.monitor.traffic(ctx); err == nil {
			now.disk = n
		}
		if now != last {
			last, lastChange = now, time.Now()
		} else if time.Since(lastChange) >= stall {
			cancel(ErrStuck)
			return
		}
	}
}
