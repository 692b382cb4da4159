// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"context"
	"errors"
	"fmt"
)

// Composite judges evidence of two parts: platform vouches, by a binding that is
// KeyBinding of the key, for the key that signs the second part, and that part is
// made over the channel's binding. It is how a hardware report and a virtual TPM
// inside the confidential machine become one verdict.
type Composite struct {
	platform, inner Verifier
}

// NewComposite makes the verifier of technology "PLATFORM+INNER". inner must
// return its signing key in Claims.Key.
func NewComposite(platform, inner Verifier) (*Composite, error) {
	if IsNil(platform) || IsNil(inner) {
		return nil, errors.New("attestation: a composite needs two verifiers")
	}
	c := &Composite{platform, inner}
	if t := c.Technology(); !t.Valid() {
		return nil, fmt.Errorf("attestation: %q is not a valid technology", t)
	}
	return c, nil
}

// Technology implements Verifier. A zero Composite judges nothing and has none.
func (c *Composite) Technology() Technology {
	if c == nil || c.platform == nil || c.inner == nil {
		return ""
	}
	return c.platform.Technology() + "+" + c.inner.Technology()
}

// Verify implements Verifier. Only the inner part may challenge the prover: the
// platform's part is not fresh by itself, it vouches for a key that is.
func (c *Composite) Verify(ctx context.Context, e *Evidence, b Binding, ask Challenger) (*Claims, error) {
	if t := c.Technology(); t == "" || e == nil || e.Technology() != t || len(e.Parts) != 2 {
		return nil, Refuse(ReasonTechnology, "evidence is not of technology %q", c.Technology())
	}
	inner, err := c.inner.Verify(ctx, &Evidence{Parts: e.Parts[1:]}, b, ask)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.inner.Technology(), err)
	}
	if len(inner.Key) == 0 {
		return nil, Refuse(ReasonInternal, "%s names no key that %s could vouch for", c.inner.Technology(), c.platform.Technology())
	}
	outer, err := c.platform.Verify(ctx, &Evidence{Parts: e.Parts[:1]}, KeyBinding(inner.Key), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.platform.Technology(), err)
	}
	return merge(c.Technology(), outer, inner), nil
}

// merge joins what was proven of the platform with what was proven within it.
func merge(t Technology, platform, inner *Claims) *Claims {
	out := *inner
	out.Technology = t
	out.Launch = platform.Launch
	out.Debug = platform.Debug
	out.Identities = append(append([]Identity(nil), platform.Identities...), inner.Identities...)
	out.TCB = append(append([]Version(nil), platform.TCB...), inner.TCB...)
	if out.Grant = platform.Grant; out.Grant == nil {
		out.Grant = inner.Grant
	}
	// That the boot was accepted is the inner part's to say: the platform sees the
	// firmware only. The rest holds if either proved it.
	out.Properties = nil
	for _, p := range AllProperties() {
		if inner.Properties.Proven(p) || (p != PropertyBoot && p != PropertyFresh && platform.Properties.Proven(p)) {
			out.Properties = append(out.Properties, p)
		}
	}
	return &out
}

// CompositeIssuer joins evidence about a key, made once, with a fresh issuer's.
type CompositeIssuer struct {
	platform *Evidence
	inner    Issuer
}

// NewCompositeIssuer makes the issuer that matches NewComposite. platform is
// evidence of one part over KeyBinding of the key that inner signs with.
func NewCompositeIssuer(platform *Evidence, inner Issuer) (*CompositeIssuer, error) {
	if platform == nil || len(platform.Parts) != 1 || IsNil(inner) {
		return nil, errors.New("attestation: a composite needs evidence of one part and an issuer")
	}
	return &CompositeIssuer{platform, inner}, nil
}

// Technology implements Issuer.
func (c *CompositeIssuer) Technology() Technology {
	return c.platform.Technology() + "+" + c.inner.Technology()
}

// Issue implements Issuer.
func (c *CompositeIssuer) Issue(ctx context.Context, b Binding) (*Evidence, error) {
	e, err := c.inner.Issue(ctx, b)
	if err != nil {
		return nil, err
	}
	return &Evidence{Parts: append([]Part{c.platform.Parts[0]}, e.Parts...)}, nil
}

// Respond implements Responder; an inner issuer that cannot respond is refused.
func (c *CompositeIssuer) Respond(ctx context.Context, b Binding, challenge []byte) ([]byte, error) {
	r, ok := c.inner.(Responder)
	if !ok {
		return nil, Refuse(ReasonUnexpected, "%s answers no challenges", c.inner.Technology())
	}
	return r.Respond(ctx, b, challenge)
}
