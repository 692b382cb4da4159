// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"time"
)

// Interruptible returns what f returns. Once ctx is done, f has some patience's time to
// heed that, and is then left behind with what it waits for, a pipe that nobody writes
// or a device that is silent: reading these cannot be interrupted, and the program ends.
// f must not touch what its caller uses after an error.
func Interruptible[T any](ctx context.Context, patience time.Duration, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := f()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done:
		return o.value, o.err
	case <-time.After(patience):
		var zero T
		return zero, ctx.Err()
	}
}
