// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/gate"
)

// Error is why a handshake failed.
type Error struct {
	// Reason of whoever refused first.
	Reason attestation.Reason
	// ByPeer says that the peer refused, and that Reason is its word.
	ByPeer bool
	// RetryAfter is when trying again may help, zero if unknown.
	RetryAfter time.Duration
	// Err says what happened; nil if ByPeer.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	if e.ByPeer {
		return fmt.Sprintf("atls: the peer refused: %v", e.Reason)
	}
	return fmt.Sprintf("atls: %v", e.Err)
}

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// Temporary says whether the same handshake may succeed later (gRPC asks).
func (e *Error) Temporary() bool {
	switch e.Reason {
	case attestation.ReasonTimeout, attestation.ReasonBusy, attestation.ReasonClosed:
		return true
	}
	return false
}

// classify gives an error the reason that it has not got yet.
func classify(ctx context.Context, err error) *Error {
	var done *Error
	var busy *gate.Busy
	var refusal *attestation.Error
	switch {
	case errors.As(err, &done):
		return done
	case errors.As(err, &busy):
		return &Error{Reason: attestation.ReasonBusy, RetryAfter: busy.RetryAfter, Err: err}
	case ctx.Err() != nil:
		return &Error{Reason: attestation.ReasonTimeout, Err: attestation.Refuse(attestation.ReasonTimeout, "the exchange was not finished in time: %w", ctx.Err())}
	case errors.As(err, &refusal):
		return &Error{Reason: refusal.Reason, Err: err}
	case isBroken(err):
		return &Error{Reason: attestation.ReasonClosed, Err: attestation.Refuse(attestation.ReasonClosed, "the connection ended within the exchange: %w", err)}
	}
	return &Error{Reason: attestation.ReasonInternal, Err: err}
}

// isBroken says whether err is of a connection that ended, not of what it carried.
func isBroken(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}
