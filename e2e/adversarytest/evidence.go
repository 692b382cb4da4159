// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// AnotherImage: a machine that booted another image, with a log that leads to its registers.
func AnotherImage(t *testing.T, c *Cluster) {
	c.wantTurnedAway(t, c.Machine(t, another(t, c.Image, eventUKI)), c.Dial, attestation.ReasonMeasurements)
}

// AnotherCommandLine: the same image, with another command line.
func AnotherCommandLine(t *testing.T, c *Cluster) {
	c.wantTurnedAway(t, c.Machine(t, another(t, c.Image, eventCommandLine)), c.Dial, attestation.ReasonMeasurements)
}

// AnotherTPM: a TPM by an authority that the policy does not know, on which the right image
// was booted.
func AnotherTPM(t *testing.T, c *Cluster) {
	c.wantTurnedAway(t, boot(t, swtpmtest.Start(t, swtpmtest.NewAuthority(t)), c.Image), c.Dial, attestation.ReasonIdentity)
}

// AnotherCluster: a machine that belongs to another cluster since it booted.
func AnotherCluster(t *testing.T, c *Cluster) {
	id := c.ID
	id[0] ^= 1
	c.wantTurnedAway(t, locked(t, swtpmtest.Start(t, c.Authority), c.Image, id[:]), c.Dial, attestation.ReasonMeasurements)
}

// Replayed: all that an honest machine once proved itself with is said again, on another
// connection.
func Replayed(t *testing.T, c *Cluster) {
	honest := &recorder{Issuer: c.Machine(t, c.Image)}
	s := c.connect(t, honest, c.Dial)
	ctx, cancel := context.WithTimeout(t.Context(), requestTime)
	defer cancel()
	_, err := s.client.IssueRejoinTicket(ctx, &api.IssueRejoinTicketRequest{DiskUuid: newcomer().DiskUuid})
	s.conn.Close()
	if handshake := s.handshake(t); handshake != nil || refusalOf(err).GetReason() != "unknown-node" {
		t.Fatalf("the honest machine, which is no node: %v, %v", handshake, err)
	}
	c.wantTurnedAway(t, honest.player(t), c.Dial, attestation.ReasonBinding)
}

// recorder keeps what a machine proves itself with.
type recorder struct {
	*tpm.Issuer
	mu       sync.Mutex
	evidence *attestation.Evidence
	response []byte
}

// Issue implements attestation.Issuer.
func (r *recorder) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	e, err := r.Issuer.Issue(ctx, b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evidence = e
	return e, err
}

// Respond implements attestation.Responder.
func (r *recorder) Respond(ctx context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	response, err := r.Issuer.Respond(ctx, b, challenge)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.response = response
	return response, err
}

func (r *recorder) player(t *testing.T) *player {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.evidence == nil || r.response == nil {
		t.Fatal("nothing was recorded")
	}
	return &player{r.evidence, r.response}
}

// player says what somebody else said.
type player struct {
	evidence *attestation.Evidence
	response []byte
}

// Technology implements attestation.Issuer.
func (*player) Technology() attestation.Technology { return tpm.Technology }

// Issue implements attestation.Issuer.
func (p *player) Issue(context.Context, attestation.Binding) (*attestation.Evidence, error) {
	return p.evidence, nil
}

// Respond implements attestation.Responder.
func (p *player) Respond(context.Context, attestation.Binding, []byte) ([]byte, error) {
	return p.response, nil
}

// Relayed: somebody on the way passes an honest machine's evidence on as his own.
func Relayed(t *testing.T, c *Cluster) {
	var relays sync.WaitGroup
	defer relays.Wait()
	c.wantTurnedAway(t, c.Machine(t, c.Image), func(ctx context.Context) (net.Conn, error) {
		there, err := c.Dial(ctx)
		if err != nil {
			return nil, err
		}
		machine, here := net.Pipe()
		relays.Go(func() { Relay(here, there) })
		return machine, nil
	}, attestation.ReasonBinding)
}

// protocol is the channel's (docs/atls.md, section 2).
const protocol = "constellation-atls/1"

// Relay ends the TLS of a machine and of a service, and passes on what they say within it,
// until either ends. Both are closed when it returns.
func Relay(machine, service net.Conn) {
	defer machine.Close()
	defer service.Close()
	certificate, err := selfSigned()
	if err != nil {
		return // both see that the connection ends
	}
	front := tls.Server(machine, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13})
	back := tls.Client(service, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13})
	var both sync.WaitGroup
	pass := func(to, from *tls.Conn) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.CloseWrite() // so that the last word arrives
		}
		if err != nil {
			machine.Close()
			service.Close()
		}
	}
	both.Go(func() { pass(back, front) })
	both.Go(func() { pass(front, back) })
	both.Wait()
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
