// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/gate"
)

// TestSilence: at whatever point a peer falls silent, the handshake ends in time,
// with the reason, and leaves no goroutine (synctest reports those). (V12)
func TestSilence(t *testing.T) {
	tech := []attestation.Technology{attestationtest.Technology}
	greet := func(t *testing.T, raw net.Conn) io.ReadWriter {
		conn := peerTLS(t, raw, client)
		conn.Write(frame(t, frameHello, (&hello{version: 1, role: client, nonce: nonce{1}, offers: tech}).marshal()))
		readFrame(conn, frameHello)
		return conn
	}
	for _, tc := range []struct {
		name   string
		say    func(*testing.T, net.Conn)
		within time.Duration
	}{
		{"from the start", func(*testing.T, net.Conn) {}, greetTimeout},
		{"in the TLS handshake", func(_ *testing.T, raw net.Conn) { raw.Write([]byte{22, 3, 1}) }, greetTimeout},
		{"after TLS", func(t *testing.T, raw net.Conn) { peerTLS(t, raw, client) }, greetTimeout},
		{"in the hello", func(t *testing.T, raw net.Conn) { peerTLS(t, raw, client).Write(header(frameHello, 100)) }, greetTimeout},
		{"after the hello", func(t *testing.T, raw net.Conn) { greet(t, raw) }, proofTimeout},
		{"in the evidence", func(t *testing.T, raw net.Conn) {
			greet(t, raw).Write(append(header(frameEvidence, attestation.MaxEvidenceSize), make([]byte, 1000)...))
		}, bodyTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s := start(t.Context(), must(ServerVerify(verifiers{attestationtest.Accept()}, Options{})), server, b)
				began := time.Now()
				tc.say(t, a)
				got := <-s
				wantRefusal(t, "server", got, attestation.ReasonTimeout, false)
				if took := time.Since(began); took > tc.within+farewell+time.Second {
					t.Errorf("took %v", took)
				}
				a.Close()
			})
		})
	}
}

// stuck proves itself, and never answers a challenge.
type stuck struct{ *attestationtest.Device }

func (stuck) Respond(ctx context.Context, _ attestation.Binding, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSilentAnswer: whoever has shown good evidence does not keep its turn either.
func TestSilentAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := attestationtest.NewDevice("x")
		challenging := attestationtest.Accept(d)
		challenging.Rounds = 1
		a, b := net.Pipe()
		c := start(t.Context(), must(ClientProve(stuck{d}, Options{})), client, a)
		began := time.Now()
		s := start(t.Context(), must(ServerVerify(verifiers{challenging}, Options{})), server, b)
		wantRefusal(t, "server", <-s, attestation.ReasonTimeout, false)
		if took := time.Since(began); took > proofTimeout+farewell {
			t.Errorf("took %v", took)
		}
		<-c
	})
}

// TestDribble: a byte now and then does not extend the deadline.
func TestDribble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := start(t.Context(), must(ServerProve(attestationtest.NewDevice("x"), Options{})), server, b)
		began := time.Now()
		conn := peerTLS(t, a, client)
		conn.Write(header(frameHello, maxHelloSize))
		go func() {
			for {
				if _, err := conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second) // of the bubble's clock
			}
		}()
		wantRefusal(t, "server", <-s, attestation.ReasonTimeout, false)
		if took := time.Since(began); took > greetTimeout+farewell {
			t.Errorf("took %v", took)
		}
		a.Close()
	})
}

// TestCancelledClient: the caller's context ends a handshake at once.
func TestCancelledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		c := start(ctx, must(ClientProve(attestationtest.NewDevice("x"), Options{})), client, a)
		synctest.Wait()
		cancel()
		wantRefusal(t, "client", <-c, attestation.ReasonTimeout, false)
		b.Close()
	})
}

// late ends its caller's context in the moment in which the verdict is sent.
type late struct {
	net.Conn
	cancel func()
	armed  atomic.Bool
	ended  chan bool // the handshake has noticed
}

func (l *late) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	if l.armed.CompareAndSwap(true, false) {
		l.cancel()
		<-l.ended
	}
	return n, err
}

func (l *late) SetDeadline(at time.Time) error {
	if at.Before(time.Now()) {
		close(l.ended)
	}
	return l.Conn.SetDeadline(at)
}

// noticing tells when evidence is judged.
type noticing struct {
	*policy
	judged func()
}

func (n noticing) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	n.judged()
	return n.policy.Verify(ctx, e, b, ask)
}

// TestCancelledAtTheEnd: a connection whose deadline has been spent is not handed out.
func TestCancelledAtTheEnd(t *testing.T) {
	a, b := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	conn := &late{Conn: a, cancel: cancel, ended: make(chan bool)}
	d := attestationtest.NewDevice("x")
	accept := noticing{attestationtest.Accept(d), func() { conn.armed.Store(true) }}
	s := start(t.Context(), must(ServerProve(d, Options{})), server, b)
	wantRefusal(t, "client", <-start(ctx, must(ClientVerify(verifiers{accept}, Options{})), client, conn), attestation.ReasonTimeout, false)
	<-s
	b.Close()
}

// silentVerifier neither accepts nor refuses.
type silentVerifier struct{ *policy }

func (silentVerifier) Verify(context.Context, *attestation.Evidence, attestation.Binding, attestation.Challenger) (*attestation.Claims, error) {
	return nil, nil
}

// TestNoClaims: a verifier's silence is not consent.
func TestNoClaims(t *testing.T) {
	d := attestationtest.NewDevice("x")
	c, s := meet(t, must(ClientProve(d, Options{})), must(ServerVerify(verifiers{silentVerifier{attestationtest.Accept(d)}}, Options{})))
	wantRefusal(t, "server", s, attestation.ReasonInternal, false)
	wantRefusal(t, "client", c, attestation.ReasonInternal, true)
}

// TestHangingUp: a peer that goes away is told apart from one that is slow.
func TestHangingUp(t *testing.T) {
	a, b := net.Pipe()
	s := start(t.Context(), must(ServerProve(attestationtest.NewDevice("x"), Options{})), server, b)
	peerTLS(t, a, client)
	a.Close()
	wantRefusal(t, "server", <-s, attestation.ReasonClosed, false)
}

// TestHostileFrames: what a genuine connection may still say wrong, and the reason
// that both sides learn. (V12)
func TestHostileFrames(t *testing.T) {
	tech := []attestation.Technology{attestationtest.Technology}
	good := frame(t, frameHello, (&hello{version: 1, role: client, nonce: nonce{1}, demands: tech}).marshal())
	for _, tc := range []struct {
		name string
		send [][]byte
		want attestation.Reason
	}{
		{"another version", [][]byte{frame(t, frameHello, []byte{0, 2})}, attestation.ReasonVersion},
		{"the server's role", [][]byte{frame(t, frameHello, (&hello{version: 1, role: server, nonce: nonce{1}, demands: tech}).marshal())}, attestation.ReasonRole},
		{"role 0", [][]byte{frame(t, frameHello, (&hello{version: 1, nonce: nonce{1}, demands: tech}).marshal())}, attestation.ReasonRole},
		{"evidence first", [][]byte{frame(t, frameEvidence, nil)}, attestation.ReasonUnexpected},
		{"acceptance first", [][]byte{frame(t, frameResult, result(0, 0))}, attestation.ReasonUnexpected},
		{"an unknown frame", [][]byte{{9, 0, 0, 0}}, attestation.ReasonMalformed},
		{"a length bomb", [][]byte{header(frameHello, 0xffffff)}, attestation.ReasonTooLarge},
		{"two hellos", [][]byte{good, good}, attestation.ReasonUnexpected},
		{"HTTP/2 before the verdict", [][]byte{good, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}, attestation.ReasonMalformed},
		{"a challenge too many", append([][]byte{good}, bytes.Split(bytes.Repeat([]byte("\x03\x00\x00\x01c|"), 5), []byte("|"))...), attestation.ReasonUnexpected},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := net.Pipe()
			s := start(t.Context(), must(ServerProve(attestationtest.NewDevice("x"), Options{})), server, b)
			conn := peerTLS(t, a, client)
			go func() {
				for _, data := range tc.send {
					conn.Write(data)
				}
			}()
			var told error
			for told == nil {
				_, _, told = readFrame(conn, frameHello, frameEvidence, frameResponse)
			}
			a.Close()
			wantRefusal(t, "server", <-s, tc.want, false)
			wantRefusal(t, "client", ended{err: told}, tc.want, true)
		})
	}
}

// TestUnaskedChallenge: an issuer without challenges gets one.
func TestUnaskedChallenge(t *testing.T) {
	d := attestationtest.NewDevice("x")
	plain := struct{ attestation.Issuer }{d} // hides Respond
	challenging := attestationtest.Accept(d)
	challenging.Rounds = 1
	c, s := meet(t, must(ClientVerify(verifiers{challenging}, Options{})), must(ServerProve(plain, Options{})))
	wantRefusal(t, "server", s, attestation.ReasonUnexpected, false)
	wantRefusal(t, "client", c, attestation.ReasonUnexpected, true)
}

// TestGatesAreBounded: what docs/atls.md says of a server's gates, but of their rate.
func TestGatesAreBounded(t *testing.T) {
	s := newTransport(party{role: server}, Options{Timeout: 30 * time.Second, QuotesPerSecond: 5, QuoteBurst: 10})
	for _, tc := range []struct {
		name string
		gate *gate.Gate
		want gate.Limits
	}{
		{"handshakes", s.handshakes, gate.Limits{Slots: 1024, PerSource: 64, Queue: 4096, Sources: gate.MaxSources}},
		{"verifications", s.verifications, gate.Limits{Slots: 128, PerSource: 32, Queue: 4096, Sources: gate.MaxSources}},
	} {
		if tc.gate.Limits() != tc.want {
			t.Errorf("%s are bounded by %+v, want %+v", tc.name, tc.gate.Limits(), tc.want)
		}
	}
}
