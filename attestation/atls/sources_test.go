// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// from is a connection in memory that came from an address.
type from struct {
	net.Conn
	address net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.address }

// numbered is the address of a source.
func numbered(n int) net.Addr {
	return &net.TCPAddr{IP: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(n)), Port: 1}
}

// TestFloodFromManySources (V22): hundreds of sources with some connections each say
// what makes a server wait, and no more. A legitimate peer from elsewhere completes.
func TestFloodFromManySources(t *testing.T) {
	const sources, connections = 400, 3
	tech := []attestation.Technology{attestationtest.Technology}
	greeting := frame(t, frameHello, (&hello{version: 1, role: client, nonce: nonce{1}, offers: tech}).marshal())
	for _, tc := range []struct {
		name string
		late time.Duration // before the greeting
		then []byte
	}{
		{"silent after the hello", 0, nil},
		{"silent after a hello that is late", greetTimeout - time.Second, nil},
		{"silent in the evidence", 0, append(header(frameEvidence, attestation.MaxEvidenceSize), 0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			certificate, err := ephemeralCertificate()
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				node := attestationtest.NewDevice("node")
				s := must(ServerVerify(verifiers{attestationtest.Accept(node)}, Options{}))
				s.certificate = func() (tls.Certificate, error) { return certificate, nil } // spares the test some time
				var wg sync.WaitGroup
				for i := range sources * connections {
					a, b := net.Pipe()
					wg.Go(func() { s.ServerHandshake(from{b, numbered(i % sources)}) })
					wg.Go(func() {
						defer a.Close()
						config, _ := tlsConfig(client, s.certificate)
						conn := tls.Client(a, config)
						if conn.Handshake() != nil {
							return
						}
						time.Sleep(tc.late) // of the bubble's clock
						conn.Write(greeting)
						if _, _, err := readFrame(conn, frameHello); err == nil {
							conn.Write(tc.then)
							io.Copy(io.Discard, conn)
						}
					})
				}
				synctest.Wait()
				began := time.Now()
				a, b := net.Pipe()
				c := start(t.Context(), must(ClientProve(node, Options{})), client, a)
				_, info, err := s.ServerHandshake(from{b, numbered(sources)})
				if err != nil || info.(Info).claims == nil {
					t.Errorf("at the server after %v: %v", time.Since(began), err)
				}
				if got := <-c; got.err != nil {
					t.Errorf("the legitimate peer after %v: %v", time.Since(began), got.err)
				}
				t.Logf("the legitimate peer waited %v", time.Since(began))
				wg.Wait()
			})
		})
	}
}
