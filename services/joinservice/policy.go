// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
)

// Judge makes the verifier of a policy.
type Judge func(*policy.Document) (attestation.Verifier, error)

// Policy says which machines are let in, and can change while the service runs. It is
// the [attestation.Verifier] of the channel. Before the first Load it refuses everybody.
type Policy struct {
	technology attestation.Technology
	judge      Judge
	now        func() time.Time
	current    atomic.Pointer[inForce]
}

type inForce struct {
	document *policy.Document
	verifier attestation.Verifier
}

// NewPolicy makes one for a technology. now is the time to judge by, the system's if nil.
func NewPolicy(technology attestation.Technology, judge Judge, now func() time.Time) *Policy {
	if now == nil {
		now = time.Now
	}
	return &Policy{technology: technology, judge: judge, now: now}
}

// Load puts a document in force. One that says too little is refused, and the old one
// stays in force. Errors have [attestation.ReasonPolicy] or what the verifier says.
func (p *Policy) Load(data []byte) error {
	d, err := policy.Parse(data)
	if err != nil {
		return err
	}
	v, err := p.judge(d)
	if err != nil {
		return err
	}
	if v.Technology() != p.technology {
		return attestation.Refuse(attestation.ReasonTechnology, "the policy's verifier is for %q, the channel for %q", v.Technology(), p.technology)
	}
	p.current.Store(&inForce{d, v})
	return nil
}

// Digest names the document in force; nil if there is none.
func (p *Policy) Digest() measurements.Digest {
	if f := p.current.Load(); f != nil {
		return f.document.Digest
	}
	return nil
}

// Technology implements [attestation.Verifier].
func (p *Policy) Technology() attestation.Technology { return p.technology }

// Verify implements [attestation.Verifier]. Its claims name the document.
func (p *Policy) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	f := p.current.Load()
	if f == nil {
		return nil, attestation.Refuse(attestation.ReasonPolicy, "no policy is in force yet")
	}
	claims, err := f.verifier.Verify(ctx, e, b, ask)
	if err != nil {
		return nil, err
	}
	out := *claims
	out.Policy = f.document.Digest
	return &out, nil
}

// still returns the document in force if the claims were made by it, and still hold: the
// policy may have changed, and an image may have expired, since the handshake.
func (p *Policy) still(c *attestation.Claims) (*policy.Document, error) {
	f := p.current.Load()
	if f == nil || !bytes.Equal(f.document.Digest, c.Policy) {
		return nil, refuse(ReasonPolicyChanged, "the machine was accepted by policy %s, which is no longer in force", c.Policy)
	}
	if _, err := f.document.CheckPCRs(c.PCRs, p.now()); err != nil {
		return nil, &Error{Reason: Reason(attestation.ReasonOf(err).String()), Err: fmt.Errorf("since the handshake: %w", err)}
	}
	return f.document, nil
}
