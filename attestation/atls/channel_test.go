// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// Shorthands of the tests.
type (
	device    = attestationtest.Device
	policy    = attestationtest.Policy
	verifiers = []attestation.Verifier
)

// must unwraps a constructor's result.
func must(c credentials.TransportCredentials, err error) *transport {
	if err != nil {
		panic(err)
	}
	return c.(*transport)
}

// ended is how one side's handshake ended.
type ended struct {
	conn net.Conn
	info Info
	err  error
}

// start runs one side's handshake.
func start(ctx context.Context, c *transport, r role, raw net.Conn) <-chan ended {
	out := make(chan ended, 1)
	go func() {
		conn, auth, err := c.handshake(ctx, r, raw)
		info, _ := auth.(Info)
		out <- ended{conn, info, err}
	}()
	return out
}

// meet runs both sides on a connection in memory.
func meet(t *testing.T, c, s *transport) (atClient, atServer ended) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	clientSide, serverSide := start(t.Context(), c, client, a), start(t.Context(), s, server, b)
	return <-clientSide, <-serverSide
}

// wantRefusal checks who refused, and why.
func wantRefusal(t *testing.T, who string, got ended, want attestation.Reason, byPeer bool) {
	t.Helper()
	var e *Error
	if !errors.As(got.err, &e) || e.Reason != want || e.ByPeer != byPeer {
		t.Errorf("%s: got %v, want %v (by the peer: %v)", who, got.err, want, byPeer)
	}
	if got.conn != nil || got.info.claims != nil {
		t.Errorf("%s: refused, and has a connection or claims", who)
	}
}

func TestHandshake(t *testing.T) {
	node, join := attestationtest.NewDevice("node"), attestationtest.NewDevice("join")
	challenging := attestationtest.Accept(node)
	challenging.Rounds = attestation.MaxRounds
	for _, tc := range []struct {
		name             string
		client, server   *transport
		clientSees       string
		serverSees       string
		acceptedByServer bool
	}{
		{"the server proves", must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{})), must(ServerProve(join, Options{})), "join", "", true},
		{"the client proves", must(ClientProve(node, Options{})), must(ServerVerify(verifiers{attestationtest.Accept(node)}, Options{})), "", "node", true},
		{"both prove", must(ClientMutual(node, verifiers{attestationtest.Accept(join)}, Options{})), must(ServerMutual(join, verifiers{attestationtest.Accept(node)}, Options{})), "join", "node", true},
		{"challenges", must(ClientMutual(node, verifiers{attestationtest.Accept(join)}, Options{})), must(ServerMutual(join, verifiers{challenging}, Options{})), "join", "node", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := meet(t, tc.client, tc.server)
			if c.err != nil || s.err != nil {
				t.Fatalf("client: %v, server: %v", c.err, s.err)
			}
			for side, got := range map[string]struct {
				info Info
				want string
			}{"client": {c.info, tc.clientSees}, "server": {s.info, tc.serverSees}} {
				image := ""
				if got.info.claims != nil {
					image = got.info.claims.Image
				}
				if image != got.want {
					t.Errorf("the %s sees %q, want %q", side, image, got.want)
				}
				if got.info.SecurityLevel != credentials.PrivacyAndIntegrity || !got.info.PostQuantum() {
					t.Errorf("the %s's connection is of level %v, post-quantum %v", side, got.info.SecurityLevel, got.info.PostQuantum())
				}
			}
			go c.conn.Write([]byte("first application byte"))
			buf := make([]byte, 22)
			if n, err := s.conn.Read(buf); err != nil || string(buf[:n]) != "first application byte" {
				t.Errorf("read %q, %v", buf, err)
			}
		})
	}
}

func TestConstructorsRefuseNil(t *testing.T) {
	d := attestationtest.NewDevice("x")
	p := attestationtest.Accept(d)
	bad := attestationtest.NewDevice("x")
	bad.Name = "not a name"
	for name, f := range map[string]func() (credentials.TransportCredentials, error){
		"no issuer":               func() (credentials.TransportCredentials, error) { return ServerProve(nil, Options{}) },
		"nil pointer as issuer":   func() (credentials.TransportCredentials, error) { return ServerProve((*device)(nil), Options{}) },
		"client without issuer":   func() (credentials.TransportCredentials, error) { return ClientProve(nil, Options{}) },
		"no verifiers":            func() (credentials.TransportCredentials, error) { return ClientVerify(nil, Options{}) },
		"server, empty verifiers": func() (credentials.TransportCredentials, error) { return ServerVerify(verifiers{}, Options{}) },
		"nil verifier":            func() (credentials.TransportCredentials, error) { return ClientVerify(verifiers{p, nil}, Options{}) },
		"nil pointer as verifier": func() (credentials.TransportCredentials, error) {
			return ServerVerify(verifiers{(*policy)(nil)}, Options{})
		},
		"mutual without issuer":   func() (credentials.TransportCredentials, error) { return ClientMutual(nil, verifiers{p}, Options{}) },
		"mutual without verifier": func() (credentials.TransportCredentials, error) { return ServerMutual(d, nil, Options{}) },
		"technology twice":        func() (credentials.TransportCredentials, error) { return ClientVerify(verifiers{p, p}, Options{}) },
		"name of a technology":    func() (credentials.TransportCredentials, error) { return ServerProve(bad, Options{}) },
		"negative option":         func() (credentials.TransportCredentials, error) { return ServerProve(d, Options{QuoteBurst: -1}) },
	} {
		if c, err := f(); err == nil || c != nil && !attestation.IsNil(c) {
			t.Errorf("%s: made credentials (%v)", name, err)
		}
	}
}

// TestSidesMustFit: nobody proves what is not asked for, or goes without what it
// asks for, and credentials of one side do not work on the other.
func TestSidesMustFit(t *testing.T) {
	node, join := attestationtest.NewDevice("node"), attestationtest.NewDevice("join")
	other := attestationtest.NewDevice("node")
	other.Name = "other"
	otherPolicy := &policy{Name: "other"}
	acceptJoin, acceptNode := verifiers{attestationtest.Accept(join)}, verifiers{attestationtest.Accept(node)}
	for _, tc := range []struct {
		name           string
		client, server *transport
		want           attestation.Reason
	}{
		{"a mutual client, a server that does not ask", must(ClientMutual(node, acceptJoin, Options{})), must(ServerProve(join, Options{})), attestation.ReasonMode},
		{"a mutual client, a server that does not prove", must(ClientMutual(node, acceptJoin, Options{})), must(ServerVerify(acceptNode, Options{})), attestation.ReasonMode},
		{"a client that proves nothing, a server that asks", must(ClientVerify(acceptJoin, Options{})), must(ServerMutual(join, acceptNode, Options{})), attestation.ReasonMode},
		{"nobody proves", must(ClientVerify(acceptJoin, Options{})), must(ServerVerify(acceptNode, Options{})), attestation.ReasonMode},
		{"nobody verifies", must(ClientProve(node, Options{})), must(ServerProve(join, Options{})), attestation.ReasonMode},
		{"no technology in common", must(ClientProve(other, Options{})), must(ServerVerify(acceptNode, Options{})), attestation.ReasonTechnology},
		{"no technology in common, other way", must(ClientVerify(verifiers{otherPolicy}, Options{})), must(ServerProve(join, Options{})), attestation.ReasonTechnology},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := meet(t, tc.client, tc.server)
			wantRefusal(t, "server", s, tc.want, false)
			wantRefusal(t, "client", c, tc.want, true)
		})
	}
	t.Run("credentials of the other side", func(t *testing.T) {
		a, _ := net.Pipe()
		_, _, err := must(ClientProve(node, Options{})).ServerHandshake(a)
		wantRefusal(t, "server", ended{err: err}, attestation.ReasonRole, false)
	})
}

// TestRefusedEvidence: the verdict's exact reason reaches both sides. The false
// JoinService has a device like any other, and is not enrolled with. (V7, V19)
func TestRefusedEvidence(t *testing.T) {
	node, join, impostor := attestationtest.NewDevice("node"), attestationtest.NewDevice("join"), attestationtest.NewDevice("join")
	acceptJoin, acceptNode := attestationtest.Accept(join), attestationtest.Accept(node)
	otherImage := attestationtest.Accept(join)
	otherImage.Images = []string{"newer"}
	tooCurious := attestationtest.Accept(join)
	tooCurious.Rounds = attestation.MaxRounds + 1
	t.Run("V19: a false JoinService with a real device", func(t *testing.T) {
		c, s := meet(t, must(ClientMutual(node, verifiers{acceptJoin}, Options{})), must(ServerMutual(impostor, verifiers{acceptNode}, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonIdentity, false)
		wantRefusal(t, "server", s, attestation.ReasonIdentity, true)
	})
	t.Run("a stranger at a mutual server makes it quote not once", func(t *testing.T) {
		quotes := 0
		counted := attestationtest.NewDevice("join")
		counted.OnIssue = func(context.Context) error { quotes++; return nil }
		c, s := meet(t, must(ClientMutual(impostor, verifiers{acceptJoin}, Options{})), must(ServerMutual(counted, verifiers{acceptNode}, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonIdentity, true)
		wantRefusal(t, "server", s, attestation.ReasonIdentity, false)
		if quotes != 0 {
			t.Errorf("the server quoted %d times", quotes)
		}
	})
	t.Run("another image", func(t *testing.T) {
		c, s := meet(t, must(ClientVerify(verifiers{otherImage}, Options{})), must(ServerProve(join, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonMeasurements, false)
		wantRefusal(t, "server", s, attestation.ReasonMeasurements, true)
	})
	t.Run("an issuer that fails", func(t *testing.T) {
		broken := attestationtest.NewDevice("join")
		broken.OnIssue = func(context.Context) error { return errors.New("no device") }
		c, s := meet(t, must(ClientVerify(verifiers{acceptJoin}, Options{})), must(ServerProve(broken, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonIssue, true)
		wantRefusal(t, "server", s, attestation.ReasonIssue, false)
	})
	t.Run("a verifier without end", func(t *testing.T) {
		c, _ := meet(t, must(ClientVerify(verifiers{tooCurious}, Options{})), must(ServerProve(join, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonInternal, false)
	})
	t.Run("V12: evidence above the limit is not sent", func(t *testing.T) {
		bloated := attestationtest.NewDevice("join")
		bloated.Padding = attestation.MaxEvidenceSize
		c, s := meet(t, must(ClientVerify(verifiers{acceptJoin}, Options{})), must(ServerProve(bloated, Options{})))
		wantRefusal(t, "client", c, attestation.ReasonIssue, true)
		wantRefusal(t, "server", s, attestation.ReasonIssue, false)
	})
}

// TestOnlyFreshConnections: evidence is bound to TLS 1.3 for this protocol only.
func TestOnlyFreshConnections(t *testing.T) {
	join := attestationtest.NewDevice("join")
	for _, tc := range []struct {
		name   string
		config *tls.Config
	}{
		{"TLS 1.2", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{alpn}}},
		{"another protocol", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}},
		{"no protocol", &tls.Config{InsecureSkipVerify: true}},
		{"another group", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, CurvePreferences: []tls.CurveID{tls.CurveP256}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			s := start(t.Context(), must(ServerProve(join, Options{})), server, b)
			conn := tls.Client(a, tc.config)
			if conn.Handshake() == nil {
				conn.Read(make([]byte, 64))
			}
			a.Close()
			wantRefusal(t, "server", <-s, attestation.ReasonChannel, false)
		})
	}
}
