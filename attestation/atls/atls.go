// SPDX-License-Identifier: Apache-2.0

// Package atls is the attested channel: gRPC transport credentials that let a
// connection carry its first application byte only after the sides have proven
// to each other what they are.
//
// A TLS 1.3 handshake with ephemeral, self-signed keys comes first. Then, inside
// that connection, a short exchange of frames carries evidence over a binding
// that includes the connection's exporter, fresh nonces of both sides, and the
// prover's role. docs/atls.md specifies every byte. A client proves before a
// server does, so that in mutual mode no stranger makes a server quote.
//
//	             client            server
//	ClientVerify verifies          proves    ServerProve
//	ClientProve  proves            verifies  ServerVerify
//	ClientMutual proves, verifies  both      ServerMutual
//
// Handlers read who is at the other end with ClaimsFromContext, and authorise
// on that.
//
// # Trust
//
// Everything the peer sends is parsed with limits and within a deadline. Accepted
// is only what an attestation.Verifier accepted on this very connection. Evidence
// that was relayed from another connection is refused even if the relay holds
// the private key of the prover's TLS certificate: it would have to know the other
// connection's key exchange as well.
//
// # Not guaranteed
//
// The side that verifies nothing knows nothing about its peer: a server made by
// ServerProve serves everybody, and a client made by ClientProve may be talking to
// anybody. A prover's software that was accepted is trusted not to hand out its
// connection keys. Evidence is not secret, and a client shows its own to whatever
// server it connects to.
package atls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/constellation-os/constellation/attestation"
)

// Options adjust a channel. The zero value is the right one for most.
type Options struct {
	// Timeout is how long a handshake may take, 30 seconds if zero.
	Timeout time.Duration
	// QuotesPerSecond bounds how often strangers can make the issuer work: each
	// Issue and each Respond counts. 5 if zero. The quotes are shared out fairly
	// among the addresses that ask.
	QuotesPerSecond float64
	// QuoteBurst is how many may follow each other at once, 10 if zero.
	QuoteBurst int
	// Observe, if set, is called once for each handshake, from its goroutine, for
	// logs and metrics: gRPC keeps the reason of a failed handshake to itself.
	Observe func(Outcome)
}

// Outcome is how a handshake ended.
type Outcome struct {
	Remote net.Addr
	// Claims of the peer, nil if it proved nothing.
	Claims *attestation.Claims
	// Err is nil, or an *Error.
	Err error
}

// ServerProve makes credentials of a server that proves itself and serves anybody.
func ServerProve(issuer attestation.Issuer, o Options) (credentials.TransportCredentials, error) {
	return build(server, proves, issuer, nil, o)
}

// ServerVerify makes credentials of a server that only serves clients which one of
// the verifiers accepts.
func ServerVerify(verifiers []attestation.Verifier, o Options) (credentials.TransportCredentials, error) {
	return build(server, verifies, nil, verifiers, o)
}

// ServerMutual makes credentials of a server that serves clients which one of the
// verifiers accepts, and proves itself to them.
func ServerMutual(issuer attestation.Issuer, verifiers []attestation.Verifier, o Options) (credentials.TransportCredentials, error) {
	return build(server, proves|verifies, issuer, verifiers, o)
}

// ClientProve makes credentials of a client that proves itself to a server of
// which it learns nothing. A client that acts on what such a server says can be
// enrolled by anybody: almost always ClientMutual is meant.
func ClientProve(issuer attestation.Issuer, o Options) (credentials.TransportCredentials, error) {
	return build(client, proves, issuer, nil, o)
}

// ClientVerify makes credentials of a client that only talks to servers which one
// of the verifiers accepts.
func ClientVerify(verifiers []attestation.Verifier, o Options) (credentials.TransportCredentials, error) {
	return build(client, verifies, nil, verifiers, o)
}

// ClientMutual makes credentials of a client that proves itself, and only talks to
// servers which one of the verifiers accepts.
func ClientMutual(issuer attestation.Issuer, verifiers []attestation.Verifier, o Options) (credentials.TransportCredentials, error) {
	return build(client, proves|verifies, issuer, verifiers, o)
}

// mode says what a side does.
type mode int

const (
	proves mode = 1 << iota
	verifies
)

// build makes credentials, or says what is missing: a nil issuer or verifier is an
// error and never means "without".
func build(role role, m mode, issuer attestation.Issuer, verifiers []attestation.Verifier, o Options) (*transport, error) {
	p := party{role: role}
	if m&proves != 0 {
		if attestation.IsNil(issuer) {
			return nil, errors.New("atls: the side that proves needs an issuer")
		}
		if t := issuer.Technology(); !t.Valid() {
			return nil, fmt.Errorf("atls: %q is not a valid technology", t)
		}
		p.issuer = issuer
	}
	if m&verifies != 0 {
		if len(verifiers) == 0 || len(verifiers) > maxTechnologies {
			return nil, fmt.Errorf("atls: the side that verifies needs 1 to %d verifiers, not %d", maxTechnologies, len(verifiers))
		}
		for i, v := range verifiers {
			if attestation.IsNil(v) {
				return nil, fmt.Errorf("atls: verifier %d is nil", i)
			}
			if t := v.Technology(); !t.Valid() || p.verifier(t) != nil {
				return nil, fmt.Errorf("atls: technology %q is not valid, or verified twice", t)
			}
			p.verifiers = append(p.verifiers, v)
		}
	}
	if o.Timeout < 0 || o.QuotesPerSecond < 0 || o.QuoteBurst < 0 {
		return nil, errors.New("atls: options are negative")
	}
	o.Timeout = orDefault(o.Timeout, 30*time.Second)
	o.QuotesPerSecond = orDefault(o.QuotesPerSecond, 5)
	o.QuoteBurst = orDefault(o.QuoteBurst, 10)
	return newTransport(p, o), nil
}

func orDefault[T comparable](v, preset T) T {
	var zero T
	if v == zero {
		return preset
	}
	return v
}

// ClaimsFromContext returns what the peer of an RPC proved. It fails where the peer
// proved nothing, so a handler that authorises on claims cannot forget to ask.
func ClaimsFromContext(ctx context.Context) (*attestation.Claims, error) {
	info, err := infoFromContext(ctx)
	if err != nil {
		return nil, err
	}
	return info.Claims()
}
