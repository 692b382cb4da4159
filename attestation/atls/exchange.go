// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// party is what one side is and can do, the same for all its connections.
type party struct {
	role      role
	issuer    attestation.Issuer     // nil: proves nothing
	verifiers []attestation.Verifier // none: verifies nothing
}

func (p *party) verifier(t attestation.Technology) attestation.Verifier {
	for _, v := range p.verifiers {
		if v.Technology() == t {
			return v
		}
	}
	return nil
}

func (p *party) hello() *hello {
	h := &hello{version: protocolVersion, role: p.role}
	rand.Read(h.nonce[:])
	if p.issuer != nil {
		h.offers = []attestation.Technology{p.issuer.Technology()}
	}
	for _, v := range p.verifiers {
		h.demands = append(h.demands, v.Technology())
	}
	return h
}

// exchange is the part of a handshake that follows TLS.
type exchange struct {
	party
	conn     io.ReadWriter
	exporter []byte
	// enterQuote and enterVerify wait for a turn, and return how to end it.
	enterQuote, enterVerify func(context.Context) (leave func(), err error)
	// hurry ends the exchange after d, unless it is stopped before.
	hurry func(d time.Duration) (stop func())
	// greeted is called when the peer has said hello.
	greeted func()

	// version and nonces are set by greet.
	version                  uint16
	clientNonce, serverNonce nonce
}

// run returns the peer's claims, nil if it proves nothing.
func (x *exchange) run(ctx context.Context) (*attestation.Claims, error) {
	proof, demand, err := x.greet()
	if err != nil {
		return nil, err
	}
	x.greeted()
	var claims *attestation.Claims
	for _, prover := range []role{client, server} {
		switch {
		case prover == x.role && proof != "":
			err = x.prove(ctx)
		case prover != x.role && demand != "":
			claims, err = x.verify(ctx, demand)
		}
		if err != nil {
			return nil, err
		}
	}
	return claims, nil
}

// greet exchanges hellos, and returns by what technology this side proves itself
// and by what the peer does; empty for not at all.
func (x *exchange) greet() (proof, demand attestation.Technology, err error) {
	own := x.hello()
	if x.role == client {
		if err := writeFrame(x.conn, frameHello, own.marshal()); err != nil {
			return "", "", err
		}
	}
	_, body, err := readFrame(x.conn, frameHello)
	if err != nil {
		return "", "", err
	}
	peer, err := parseHello(body)
	if err != nil {
		return "", "", err
	}
	if peer.role != x.role.peer() || peer.nonce == own.nonce {
		return "", "", attestation.Refuse(attestation.ReasonRole, "the peer claims role %d, or returns our nonce", peer.role)
	}
	if proof, err = agree(own.offers, peer.demands); err != nil {
		return "", "", fmt.Errorf("this side's evidence: %w", err)
	}
	if demand, err = agree(peer.offers, own.demands); err != nil {
		return "", "", fmt.Errorf("the peer's evidence: %w", err)
	}
	x.version, x.clientNonce, x.serverNonce = own.version, own.nonce, peer.nonce
	if x.role == server {
		x.clientNonce, x.serverNonce = peer.nonce, own.nonce
		err = writeFrame(x.conn, frameHello, own.marshal())
	}
	return proof, demand, err
}

func (x *exchange) binding(prover role) attestation.Binding {
	return binding(x.exporter, x.clientNonce, x.serverNonce, prover, x.version)
}

// prove sends evidence, answers challenges, and returns when the peer accepts.
func (x *exchange) prove(ctx context.Context) error {
	b := x.binding(x.role)
	evidence, err := x.issue(ctx, b)
	if err != nil {
		return err
	}
	if err := writeFrame(x.conn, frameEvidence, evidence); err != nil {
		return err
	}
	for round := 0; ; round++ {
		t, challenge, err := readFrame(x.conn, frameChallenge, frameResult)
		if err != nil || t == frameResult {
			return err
		}
		if round == attestation.MaxRounds {
			return attestation.Refuse(attestation.ReasonUnexpected, "more than %d challenges", attestation.MaxRounds)
		}
		response, err := x.respond(ctx, b, challenge)
		if err != nil {
			return err
		}
		if err := writeFrame(x.conn, frameResponse, response); err != nil {
			return err
		}
	}
}

func (x *exchange) issue(ctx context.Context, b attestation.Binding) ([]byte, error) {
	leave, err := x.enterQuote(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	e, err := x.issuer.Issue(ctx, b)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonIssue, "issue evidence: %w", err)
	}
	if e.Technology() != x.issuer.Technology() {
		return nil, attestation.Refuse(attestation.ReasonIssue, "the issuer of %q made %q", x.issuer.Technology(), e.Technology())
	}
	data, err := e.Marshal()
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonIssue, "%w", err)
	}
	return data, nil
}

func (x *exchange) respond(ctx context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	r, ok := x.issuer.(attestation.Responder)
	if !ok {
		return nil, attestation.Refuse(attestation.ReasonUnexpected, "technology %q has no challenges", x.issuer.Technology())
	}
	leave, err := x.enterQuote(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	response, err := r.Respond(ctx, b, challenge)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonIssue, "answer a challenge: %w", err)
	}
	return response, nil
}

// verify reads the peer's evidence, judges it, and tells the peer.
func (x *exchange) verify(ctx context.Context, t attestation.Technology) (*attestation.Claims, error) {
	announced, err := x.awaitEvidence()
	if err != nil {
		return nil, err
	}
	leave, err := x.enterVerify(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	evidence, err := x.readEvidence(announced)
	if err != nil {
		return nil, err
	}
	defer x.hurry(proofTimeout)()
	if evidence.Technology() != t {
		return nil, attestation.Refuse(attestation.ReasonTechnology, "evidence of %q, agreed was %q", evidence.Technology(), t)
	}
	claims, err := x.verifier(t).Verify(ctx, evidence, x.binding(x.role.peer()), x.challenger())
	if err != nil {
		return nil, fmt.Errorf("the peer's evidence: %w", err)
	}
	if claims == nil {
		return nil, attestation.Refuse(attestation.ReasonInternal, "the verifier of %q returned no claims", t)
	}
	return claims, writeFrame(x.conn, frameResult, result(0, 0))
}

// awaitEvidence waits without a turn to verify: whoever sends nothing holds up nobody.
func (x *exchange) awaitEvidence() (*announced, error) {
	defer x.hurry(proofTimeout)()
	return readHeader(x.conn, frameEvidence)
}

func (x *exchange) readEvidence(a *announced) (*attestation.Evidence, error) {
	defer x.hurry(bodyTimeout)()
	body, err := a.read(x.conn)
	if err != nil {
		return nil, err
	}
	return attestation.ParseEvidence(body)
}

// challenger asks the peer, at most MaxRounds times.
func (x *exchange) challenger() attestation.Challenger {
	rounds := 0
	return func(_ context.Context, challenge []byte) ([]byte, error) {
		if rounds++; rounds > attestation.MaxRounds {
			return nil, attestation.Refuse(attestation.ReasonInternal, "the verifier wants more than %d rounds", attestation.MaxRounds)
		}
		if err := writeFrame(x.conn, frameChallenge, challenge); err != nil {
			return nil, err
		}
		_, response, err := readFrame(x.conn, frameResponse)
		return response, err
	}
}
