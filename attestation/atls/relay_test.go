// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// relay stands between two live peers: it ends the client's TLS with the given
// certificate, opens its own to the server, and passes every byte on. It returns
// what the server sent.
func relay(t *testing.T, toClient, toServer net.Conn, certificate tls.Certificate) func() []byte {
	t.Helper()
	front := tls.Server(toClient, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13})
	back := tls.Client(toServer, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13})
	var recorded bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(back, front); toServer.Close() })
	wg.Go(func() { io.Copy(io.MultiWriter(front, &recorded), back); toClient.Close() })
	return func() []byte {
		toClient.Close()
		toServer.Close()
		wg.Wait()
		return recorded.Bytes()
	}
}

// TestRelayWithTheTLSKey (V3): the relay holds the very key of the server's
// certificate, so the client sees the certificate that the server would show. Both
// peers are genuine and live. Only the exporter differs.
func TestRelayWithTheTLSKey(t *testing.T) {
	stolen, err := ephemeralCertificate()
	if err != nil {
		t.Fatal(err)
	}
	node, join := attestationtest.NewDevice("node"), attestationtest.NewDevice("join")
	for _, tc := range []struct {
		name           string
		client, server *transport
		refusedBy      role
	}{
		{"the server proves", must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{})), must(ServerProve(join, Options{})), client},
		{"the client proves", must(ClientProve(node, Options{})), must(ServerVerify(verifiers{attestationtest.Accept(node)}, Options{})), server},
		{"both prove", must(ClientMutual(node, verifiers{attestationtest.Accept(join)}, Options{})), must(ServerMutual(join, verifiers{attestationtest.Accept(node)}, Options{})), server},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.server.certificate = func() (tls.Certificate, error) { return stolen, nil }
			clientEnd, front := net.Pipe()
			back, serverEnd := net.Pipe()
			c, s := start(t.Context(), tc.client, client, clientEnd), start(t.Context(), tc.server, server, serverEnd)
			stop := relay(t, front, back, stolen)
			atClient, atServer := <-c, <-s
			stop()
			wantRefusal(t, "client", atClient, attestation.ReasonBinding, tc.refusedBy != client)
			wantRefusal(t, "server", atServer, attestation.ReasonBinding, tc.refusedBy != server)
		})
	}
}

// peerTLS opens the TLS under the exchange as an attacker would, and plays frames.
func peerTLS(t *testing.T, raw net.Conn, r role) *tls.Conn {
	t.Helper()
	config, err := tlsConfig(r, ephemeralCertificate)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	if r == server {
		conn = tls.Server(raw, config)
	}
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// drain reads until the peer is done, and closes.
func drain(conn *tls.Conn) {
	io.Copy(io.Discard, conn)
	conn.NetConn().Close()
}

func frame(t *testing.T, f frameType, body []byte) []byte {
	t.Helper()
	b, err := appendFrame(nil, f, body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReplay (V4): what a genuine server once said, nonce and all, is said again by
// somebody else on a new connection.
func TestReplay(t *testing.T) {
	join := attestationtest.NewDevice("join")
	verify := must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{}))
	certificate, err := ephemeralCertificate()
	if err != nil {
		t.Fatal(err)
	}
	clientEnd, front := net.Pipe()
	back, serverEnd := net.Pipe()
	c := start(t.Context(), must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{})), client, clientEnd)
	s := start(t.Context(), must(ServerProve(join, Options{})), server, serverEnd)
	stop := relay(t, front, back, certificate)
	<-c
	<-s
	recorded := stop()

	a, b := net.Pipe()
	victim := start(t.Context(), verify, client, a)
	conn := peerTLS(t, b, server)
	go drain(conn)
	conn.Write(recorded)
	wantRefusal(t, "client", <-victim, attestation.ReasonBinding, false)
}

// TestReflection: a peer without any device sends back what it is sent.
func TestReflection(t *testing.T) {
	node := attestationtest.NewDevice("node")
	accept := verifiers{attestationtest.Accept(node)}
	t.Run("the hello", func(t *testing.T) {
		a, b := net.Pipe()
		victim := start(t.Context(), must(ClientMutual(node, accept, Options{})), client, a)
		conn := peerTLS(t, b, server)
		_, body, err := readFrame(conn, frameHello)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(frame(t, frameHello, body))
		go drain(conn)
		wantRefusal(t, "client", <-victim, attestation.ReasonRole, false)
	})
	t.Run("the nonce in a hello of the other role", func(t *testing.T) {
		a, b := net.Pipe()
		victim := start(t.Context(), must(ClientMutual(node, accept, Options{})), client, a)
		conn := peerTLS(t, b, server)
		_, body, err := readFrame(conn, frameHello)
		if err != nil {
			t.Fatal(err)
		}
		body[2] = byte(server)
		conn.Write(frame(t, frameHello, body))
		go drain(conn)
		wantRefusal(t, "client", <-victim, attestation.ReasonRole, false)
	})
	t.Run("the evidence, on the same connection", func(t *testing.T) {
		a, b := net.Pipe()
		victim := start(t.Context(), must(ClientMutual(node, accept, Options{})), client, a)
		conn := peerTLS(t, b, server)
		if _, _, err := readFrame(conn, frameHello); err != nil {
			t.Fatal(err)
		}
		tech := []attestation.Technology{attestationtest.Technology}
		conn.Write(frame(t, frameHello, (&hello{version: 1, role: server, nonce: nonce{1}, offers: tech, demands: tech}).marshal()))
		_, evidence, err := readFrame(conn, frameEvidence)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(frame(t, frameResult, result(0, 0)))
		conn.Write(frame(t, frameEvidence, evidence))
		go drain(conn)
		wantRefusal(t, "client", <-victim, attestation.ReasonBinding, false)
	})
}

// TestHostileEvidence: what is not evidence of the agreed technology.
func TestHostileEvidence(t *testing.T) {
	node := attestationtest.NewDevice("node")
	other := &policy{Name: "other"}
	tech := []attestation.Technology{attestationtest.Technology}
	encode := func(e *attestation.Evidence) []byte {
		data, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tc := range []struct {
		name string
		body []byte
		want attestation.Reason
	}{
		{"of another allowed technology", encode(attestation.NewEvidence("other", []byte{1})), attestation.ReasonTechnology},
		{"a composite", encode(&attestation.Evidence{Parts: []attestation.Part{{Technology: "test", Payload: []byte{1}}, {Technology: "test", Payload: []byte{1}}}}), attestation.ReasonTechnology},
		{"nothing", nil, attestation.ReasonVersion},
		{"garbage", []byte("garbage"), attestation.ReasonMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := net.Pipe()
			victim := start(t.Context(), must(ServerVerify(verifiers{attestationtest.Accept(node), other}, Options{})), server, a)
			conn := peerTLS(t, b, client)
			conn.Write(frame(t, frameHello, (&hello{version: 1, role: client, nonce: nonce{1}, offers: tech}).marshal()))
			if _, _, err := readFrame(conn, frameHello); err != nil {
				t.Fatal(err)
			}
			conn.Write(frame(t, frameEvidence, tc.body))
			go drain(conn)
			wantRefusal(t, "server", <-victim, tc.want, false)
		})
	}
}
