// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/gate"
	"github.com/constellation-os/constellation/services/limit"
)

// prover lets strangers use a TPM, within limits.
type prover struct {
	responder attestation.Responder
	turns     *gate.Gate
	rates     *limit.Rates
	rate      float64
	observe   func(operation string, took time.Duration)

	mu      sync.Mutex
	began   time.Time // of the operation under way; zero without one
	failing bool      // the last evidence could not be made
}

func newProver(r attestation.Responder, l Limits, observe func(string, time.Duration)) *prover {
	return &prover{
		responder: r,
		turns:     gate.New(gate.Limits{Slots: 1, Rate: l.Rate, Burst: l.Burst, Queue: l.AddressBurst, Sources: l.sources()}),
		rates:     limit.NewRates(l.AddressRate, l.AddressBurst),
		rate:      l.AddressRate,
		observe:   observe,
	}
}

// busy refuses for now.
type busy struct {
	error
	after time.Duration
}

// Unwrap makes attestation.ReasonOf find ReasonBusy.
func (b *busy) Unwrap() error { return b.error }

func refuseBusy(after time.Duration, text string) error {
	return &busy{attestation.Refuse(attestation.ReasonBusy, "%s", text), max(after, time.Second)}
}

// Evidence makes evidence over a nonce for whoever asks from an address.
func (p *prover) Evidence(ctx context.Context, from net.Addr, nonce []byte) (*attestation.Evidence, error) {
	b, err := attestation.NonceBinding(nonce)
	if err != nil {
		return nil, err
	}
	return inTurn(ctx, p, from, "evidence", func(ctx context.Context) (*attestation.Evidence, error) {
		e, err := p.responder.Issue(ctx, b)
		p.mu.Lock()
		p.failing = err != nil
		p.mu.Unlock()
		if err != nil {
			return nil, attestation.Refuse(attestation.ReasonIssue, "%w", err)
		}
		return e, nil
	})
}

// Answer answers a challenge to evidence over a nonce. That a challenge cannot be
// answered is the fault of who made it.
func (p *prover) Answer(ctx context.Context, from net.Addr, nonce, challenge []byte) ([]byte, error) {
	b, err := attestation.NonceBinding(nonce)
	if err != nil {
		return nil, err
	}
	if len(challenge) == 0 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "there is no challenge")
	}
	if len(challenge) > attestation.MaxChallengeSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "a challenge of %d bytes, at most %d", len(challenge), attestation.MaxChallengeSize)
	}
	return inTurn(ctx, p, from, "answer", func(ctx context.Context) ([]byte, error) {
		answer, err := p.responder.Respond(ctx, b, challenge)
		var refusal *attestation.Error
		if err != nil && !errors.As(err, &refusal) {
			return nil, attestation.Refuse(attestation.ReasonChallenge, "this node's TPM cannot decrypt the challenge: %w", err)
		}
		return answer, err
	})
}

// inTurn runs one operation of the TPM once it is the address's turn. A TPM cannot be
// interrupted: who does not wait any longer leaves the operation behind, and nobody
// else has a turn before it has ended.
func inTurn[T any](ctx context.Context, p *prover, from net.Addr, operation string, run func(context.Context) (T, error)) (none T, err error) {
	source := gate.Source(from)
	if !p.rates.Allow(source) {
		return none, refuseBusy(time.Duration(float64(time.Second)/p.rate), "too many requests from this address")
	}
	leave, err := p.enter(ctx, source)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		defer leave()
		p.track(time.Now())
		defer p.track(time.Time{})
		began := time.Now()
		value, err := run(ctx)
		p.observe(operation, time.Since(began))
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, attestation.Refuse(attestation.ReasonTimeout, "the TPM did not answer in time: %w", ctx.Err())
	}
}

func (p *prover) enter(ctx context.Context, source string) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	leave, err = p.turns.Enter(ctx, source)
	var full *gate.Busy
	switch {
	case errors.As(err, &full):
		return nil, refuseBusy(full.RetryAfter, "too many are waiting")
	case err != nil:
		return nil, refuseBusy(0, "it was not this address's turn in time")
	}
	return leave, nil
}

func (p *prover) track(began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = began
}

// Health says why nothing can be proven at the moment.
func (p *prover) Health() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.began.IsZero() && time.Since(p.began) > operationTime:
		return errors.New("the TPM does not answer")
	case p.failing:
		return errors.New("the last evidence could not be made")
	}
	return nil
}
