// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/gate"
)

// Limits of a server, shared by all its connections.
const (
	greetTimeout   = 10 * time.Second // for TLS and the hello
	proofTimeout   = 15 * time.Second // for a client's evidence to begin, and again for its answers
	bodyTimeout    = 2 * time.Second  // for the rest of the evidence, once the client has a turn
	handshakes     = 1024             // at once; most of them wait for their peers
	handshakesFrom = 64               // of them, from one source
	waiting        = 4096             // for a turn, from one source; they cost a goroutine each
	verifications  = 128              // holding evidence at once
	verifiesFrom   = 32               // of them, from one source
	quotesAtOnce   = 4                // the device does one after the other anyway
	farewell       = 2 * time.Second  // for telling the peer of a refusal
)

// transport implements credentials.TransportCredentials for one role.
type transport struct {
	party
	options Options

	handshakes, quotes, verifications *gate.Gate

	// certificate is ephemeralCertificate but in tests.
	certificate func() (tls.Certificate, error)
}

func newTransport(p party, o Options) *transport {
	// Whoever could not get a turn before the deadline is turned away at once.
	queue := max(1, int(o.QuotesPerSecond*o.Timeout.Seconds()/2))
	return &transport{
		party:         p,
		options:       o,
		handshakes:    gate.New(gate.Limits{Slots: handshakes, PerSource: handshakesFrom, Queue: waiting}),
		quotes:        gate.New(gate.Limits{Slots: quotesAtOnce, Rate: o.QuotesPerSecond, Burst: o.QuoteBurst, Queue: queue}),
		verifications: gate.New(gate.Limits{Slots: verifications, PerSource: verifiesFrom, Queue: waiting}),
		certificate:   ephemeralCertificate,
	}
}

// Info is what grpc's peer.Peer holds as AuthInfo on an attested connection. Clients
// get it with the call option grpc.Peer, servers more simply by ClaimsFromContext.
type Info struct {
	credentials.CommonAuthInfo
	claims *attestation.Claims
	tls    tls.ConnectionState
}

// AuthType implements credentials.AuthInfo.
func (Info) AuthType() string { return "atls" }

// Claims returns what the peer proved, or fails if it proved nothing.
func (i Info) Claims() (*attestation.Claims, error) {
	if i.claims == nil {
		return nil, errors.New("atls: the peer of this connection was not asked to prove anything")
	}
	return i.claims, nil
}

// PostQuantum says whether the connection's key exchange resists quantum computers.
func (i Info) PostQuantum() bool { return i.tls.CurveID == tls.X25519MLKEM768 }

func infoFromContext(ctx context.Context) (Info, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Info{}, errors.New("atls: not in an RPC's context")
	}
	info, ok := p.AuthInfo.(Info)
	if !ok {
		return Info{}, errors.New("atls: the connection is not attested")
	}
	return info, nil
}

// ClientHandshake implements credentials.TransportCredentials. Names mean nothing
// here: the peer is known by its evidence.
func (t *transport) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.handshake(ctx, client, raw)
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.handshake(context.Background(), server, raw)
}

// Info implements credentials.TransportCredentials.
func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "atls"}
}

// Clone implements credentials.TransportCredentials. The copy shares the limits,
// else cloning would multiply them.
func (t *transport) Clone() credentials.TransportCredentials { c := *t; return &c }

// OverrideServerName implements credentials.TransportCredentials.
func (t *transport) OverrideServerName(string) error { return nil }

// handshake closes raw if it fails.
func (t *transport) handshake(ctx context.Context, r role, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, t.options.Timeout)
	defer cancel()
	conn, info, err := t.attempt(ctx, r, raw)
	outcome := Outcome{Remote: raw.RemoteAddr(), Claims: info.claims}
	if err != nil {
		raw.Close()
		outcome = Outcome{Remote: raw.RemoteAddr(), Err: classify(ctx, err)}
	}
	if t.options.Observe != nil {
		t.options.Observe(outcome)
	}
	if outcome.Err != nil {
		return nil, nil, outcome.Err
	}
	return conn, info, nil
}

func (t *transport) attempt(ctx context.Context, r role, raw net.Conn) (net.Conn, Info, error) {
	if r != t.role {
		return nil, Info{}, attestation.Refuse(attestation.ReasonRole, "these credentials are for the other side of a connection")
	}
	from := gate.Source(raw.RemoteAddr())
	leave, err := t.enterHandshake(ctx, from)
	if err != nil {
		return nil, Info{}, err
	}
	defer leave()

	// Deadlines are gRPC's to set, and it does on a server; ours end in the same
	// way without touching them.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	interrupted := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer interrupted()
	patience := greetTimeout
	if t.role == client { // the server may have others to answer first
		patience = t.options.Timeout
	}
	silence := time.AfterFunc(patience, cancel)
	defer silence.Stop()

	conn, err := t.secure(ctx, raw)
	if err != nil {
		return nil, Info{}, classify(ctx, err)
	}
	claims, err := t.exchange(ctx, cancel, conn, from, func() { silence.Stop() })
	if err == nil && !interrupted() {
		err = ctx.Err()
	}
	if err != nil {
		refusal := classify(ctx, err)
		interrupted()
		t.refuse(conn, raw, refusal)
		return nil, Info{}, refusal
	}
	return conn, Info{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		claims:         claims,
		tls:            conn.ConnectionState(),
	}, nil
}

// secure does the TLS handshake.
func (t *transport) secure(ctx context.Context, raw net.Conn) (*tls.Conn, error) {
	config, err := tlsConfig(t.role, t.certificate)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if t.role == server {
		conn = tls.Server(raw, config)
	}
	// The context is watched by attempt: a second watcher would close raw.
	if err := conn.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
		// An alert from the peer comes as a network error too.
		if op := (*net.OpError)(nil); isBroken(err) && !(errors.As(err, &op) && op.Op == "remote error") {
			return nil, err
		}
		return nil, attestation.Refuse(attestation.ReasonChannel, "TLS: %w", err)
	}
	return conn, nil
}

func (t *transport) exchange(ctx context.Context, cancel func(), conn *tls.Conn, from string, greeted func()) (*attestation.Claims, error) {
	secret, err := exporter(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	x := &exchange{
		party:       t.party,
		conn:        conn,
		exporter:    secret,
		enterQuote:  func(ctx context.Context) (func(), error) { return t.quotes.Enter(ctx, from) },
		enterVerify: func(ctx context.Context) (func(), error) { return t.enterVerify(ctx, from) },
		hurry:       func(d time.Duration) func() { return t.hurry(d, cancel) },
		greeted:     greeted,
	}
	return x.run(ctx)
}

// enterHandshake waits for one of a server's turns. A client does what it is told.
func (t *transport) enterHandshake(ctx context.Context, from string) (func(), error) {
	if t.role == client {
		return func() {}, nil
	}
	return t.handshakes.Enter(ctx, from)
}

// enterVerify waits for one of a server's turns to hold evidence.
func (t *transport) enterVerify(ctx context.Context, from string) (func(), error) {
	if t.role == client {
		return func() {}, nil
	}
	return t.verifications.Enter(ctx, from)
}

// hurry lets nobody keep a server. A client waits for one server, which may have others
// to answer first.
func (t *transport) hurry(d time.Duration, cancel func()) (stop func()) {
	if t.role == client {
		return func() {}
	}
	timer := time.AfterFunc(d, cancel)
	return func() { timer.Stop() }
}

// refuse tells the peer why, unless it was the peer who told us.
func (t *transport) refuse(conn *tls.Conn, raw net.Conn, e *Error) {
	if e.ByPeer || e.Reason == attestation.ReasonClosed {
		return
	}
	raw.SetDeadline(time.Now().Add(farewell))
	if err := writeFrame(conn, frameResult, result(e.Reason, e.RetryAfter)); err != nil {
		return
	}
	conn.CloseWrite()
	// To close a TCP connection that still receives is to reset it, and the peer
	// would never read the reason. It closes its side once it has.
	io.CopyN(io.Discard, raw, 2*attestation.MaxEvidenceSize)
}

// String never shows more than the role.
func (t *transport) String() string {
	return fmt.Sprintf("atls credentials, role %d", t.role)
}
