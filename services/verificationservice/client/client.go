// SPDX-License-Identifier: Apache-2.0

// Package client asks a node's VerificationService for evidence, by gRPC or by HTTP,
// and has a verifier judge it.
//
// Whatever answers is untrusted, and so is the way to it: answers have limits, and end
// in claims only if a verifier accepts them over a nonce that is new each time. Errors
// are refusals (attestation.Error), or [ErrUnreachable].
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements/printable"
)

// ErrUnreachable is in the chain of an error about a node where nobody answers.
var ErrUnreachable = errors.New("unreachable")

// Client asks one service. It may be used by several goroutines at once.
type Client struct{ service }

// service is one way to ask.
type service interface {
	evidence(ctx context.Context, nonce []byte) (*attestation.Evidence, error)
	answer(ctx context.Context, nonce, challenge []byte) ([]byte, error)
	close() error
}

// New makes a client of an endpoint: HOST:PORT by gRPC, or the base URL of the service
// by HTTP. It connects when it is first used. HTTP goes through h, which is nil for the
// usual one.
func New(endpoint string, h *http.Client) (*Client, error) {
	if !strings.Contains(endpoint, "://") {
		s, err := newGRPC(endpoint)
		return &Client{s}, err
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is neither HOST:PORT nor the URL of a host (http or https)", endpoint)
	}
	return &Client{newHTTP(u, h)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.close() }

// Verify makes a nonce, asks for evidence over it, and has v judge that. A service that
// is busy is asked again until ctx is done.
func (c *Client) Verify(ctx context.Context, v attestation.Verifier) (*attestation.Claims, error) {
	nonce := make([]byte, attestation.MinNonceSize)
	rand.Read(nonce)
	b, err := attestation.NonceBinding(nonce)
	if err != nil {
		return nil, err
	}
	e, err := patiently(ctx, func() (*attestation.Evidence, error) { return c.evidence(ctx, nonce) })
	if err != nil {
		return nil, err
	}
	return v.Verify(ctx, e, b, func(ctx context.Context, challenge []byte) ([]byte, error) {
		return patiently(ctx, func() ([]byte, error) { return c.answer(ctx, nonce, challenge) })
	})
}

// refusal is what a service says of itself.
type refusal struct {
	reason attestation.Reason
	after  time.Duration
	detail string
}

// Error implements error.
func (r *refusal) Error() string { return "the node refused: " + r.detail }

// Reasons for which a service refuses. What else it says is not believed.
var reasons = map[string]attestation.Reason{}

func init() {
	for _, r := range []attestation.Reason{
		attestation.ReasonMalformed, attestation.ReasonTooLarge, attestation.ReasonBinding, attestation.ReasonBusy,
		attestation.ReasonTimeout, attestation.ReasonIssue, attestation.ReasonChallenge,
	} {
		reasons[r.String()] = r
	}
}

// maxPause bounds what a service can make its callers wait before they ask again.
const maxPause = 5 * time.Second

// refused makes an error of what a service says.
func refused(reason, detail string, after uint32) error {
	r, known := reasons[reason]
	if !known {
		return attestation.Refuse(attestation.ReasonMalformed, "the node refused for a reason that there is not")
	}
	return attestation.Refuse(r, "%w", &refusal{r, min(time.Duration(after)*time.Second, maxPause), clip(detail)})
}

// clip makes a stranger's text fit for a terminal.
func clip(s string) string { return printable.Text(s, 200) }

// patiently asks again while the service is busy. One that was busy until time was up
// was busy, whatever the last attempt had come to.
func patiently[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	var busy error
	for {
		out, err := ask()
		if err != nil && busy != nil && ctx.Err() != nil {
			return out, busy
		}
		var r *refusal
		if !errors.As(err, &r) || r.reason != attestation.ReasonBusy || r.after == 0 {
			return out, err
		}
		busy = err
		select {
		case <-time.After(r.after):
		case <-ctx.Done():
			return out, err
		}
	}
}

// ended gives an error of a connection, which is not a refusal, its reason.
func ended(ctx context.Context, connected bool, err error) error {
	switch {
	case ctx.Err() != nil && connected:
		return attestation.Refuse(attestation.ReasonTimeout, "the node did not answer in time")
	case ctx.Err() != nil:
		return attestation.Refuse(attestation.ReasonTimeout, "nobody took the connection in time")
	case connected:
		return attestation.Refuse(attestation.ReasonClosed, "the connection ended before the answer did: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
