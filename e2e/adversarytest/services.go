// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/bootstrapper/join"
	"github.com/constellation-os/constellation/services/provider"
)

// FalseService is a JoinService that is none of the cluster's: it gives every machine a
// ticket. It has a real TPM.
type FalseService struct {
	api.UnimplementedJoinServiceServer
	requests atomic.Int32
	server   *grpc.Server
	calls    sync.WaitGroup
}

// IssueJoinTicket implements the service: with secrets that nobody else has.
func (f *FalseService) IssueJoinTicket(_ context.Context, r *api.IssueJoinTicketRequest) (*api.IssueJoinTicketResponse, error) {
	f.requests.Add(1)
	ticket := &api.Ticket{Id: rand.Text(), Lifetime: 600, StateDiskKey: make([]byte, 32), MeasurementSecret: make([]byte, keys.MeasurementSize), Salt: make([]byte, keys.SaltSize)}
	for _, secret := range [][]byte{ticket.StateDiskKey, ticket.MeasurementSecret, ticket.Salt} {
		rand.Read(secret)
	}
	return &api.IssueJoinTicketResponse{Ticket: ticket, NodeName: r.NodeName, Role: api.Role_ROLE_WORKER, Cluster: &api.Cluster{}}, nil
}

// Requests is how many it got.
func (f *FalseService) Requests() int { return int(f.requests.Load()) }

// serve answers at a listener until the test ends.
func (c *Cluster) serve(t testing.TB, issuer attestation.Issuer, l net.Listener) *FalseService {
	t.Helper()
	d, err := policy.Parse(c.Policy)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.NewVerifier(d, tpm.VerifierOptions{})
	if err != nil {
		t.Fatal(err)
	}
	channel, err := atls.ServerMutual(issuer, []attestation.Verifier{v}, atls.Options{Timeout: handshakeTime})
	if err != nil {
		t.Fatal(err)
	}
	f := &FalseService{server: grpc.NewServer(grpc.Creds(channel), grpc.ConnectionTimeout(handshakeTime))}
	api.RegisterJoinServiceServer(f.server, f)
	f.calls.Go(func() { f.server.Serve(l) })
	t.Cleanup(func() { f.server.Stop(); f.calls.Wait() })
	return f
}

// OfNoCluster is a service on an honest machine that is nobody's: it answers at a listener
// until the test ends.
func (c *Cluster) OfNoCluster(t testing.TB, l net.Listener) *FalseService {
	t.Helper()
	return c.serve(t, c.Machine(t, c.Image), l)
}

// FalseServices: an honest machine is led to services that are none of its cluster's.
func FalseServices(t *testing.T, c *Cluster) {
	other := c.ID
	other[0] ^= 1
	for _, tc := range []struct {
		what     string
		issuer   *tpm.Issuer
		reason   attestation.Reason // of the machine's refusal of the service
		says     string
		requests int
	}{
		{"of no cluster", c.Machine(t, c.Image), attestation.ReasonMeasurements, "PCR 15", 0},
		{"of another cluster", locked(t, swtpmtest.Start(t, c.Authority), c.Image, other[:]), attestation.ReasonMeasurements, "PCR 15", 0},
		{"of another image", locked(t, swtpmtest.Start(t, c.Authority), another(t, c.Image, eventUKI), c.ID[:]), attestation.ReasonMeasurements, "PCR 4", 0},
		{"with a TPM of its own", locked(t, swtpmtest.Start(t, swtpmtest.NewAuthority(t)), c.Image, c.ID[:]), attestation.ReasonIdentity, "no authority of the policy vouches for the endorsement key", 0},
		// Whoever has the host of a machine with a plain TPM can make one that looks so.
		{"with all that shows, and without the cluster's secrets", locked(t, swtpmtest.Start(t, c.Authority), c.Image, c.ID[:]), 0, "its ticket cannot be used: its secrets are those of cluster ", 1},
	} {
		t.Log(tc.what)
		l := listen(t)
		service, mark := c.serve(t, tc.issuer, l), c.Audit.Mark()
		err := c.seek(t, l, time.Now)
		var e *atls.Error
		if tc.reason != 0 && (!errors.As(err, &e) || e.ByPeer || e.Reason != tc.reason) || err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("the machine says %v, want %v and %q", err, tc.reason, tc.says)
		}
		if got := service.Requests(); got != tc.requests {
			t.Errorf("the service got %d requests, want %d", got, tc.requests)
		}
		c.Audit.Nothing(t, mark)
	}
}

// ClockAhead: a machine whose clock is more than a year ahead. By its clock what the
// cluster booted is not accepted any more.
func ClockAhead(t *testing.T, c *Cluster) {
	mark, nodes := c.Audit.Mark(), len(c.Nodes(t))
	err := c.seek(t, c.forward(t), func() time.Time { return time.Now().Add(Year) })
	var e *atls.Error
	if !errors.As(err, &e) || e.ByPeer || e.Reason != attestation.ReasonExpired {
		t.Errorf("the machine says %v, want %v", err, attestation.ReasonExpired)
	}
	c.Audit.Await(t, mark, Record{"msg": "handshake", "verdict": "refused", "reason": "expired", "error": "the peer refused: expired"})
	c.Audit.Never(t, mark, Record{"verdict": "granted"})
	if now := len(c.Nodes(t)); now != nodes {
		t.Errorf("%d nodes, and there were %d", now, nodes)
	}
}

// ClockBehind: a machine whose clock is more than a year behind, by which there is no such
// cluster yet. JoinService, which knows nothing of that, gives it a ticket, with which the
// machine does nothing.
func ClockBehind(t *testing.T, c *Cluster) {
	mark := c.Audit.Mark()
	err := c.seek(t, c.forward(t), func() time.Time { return time.Now().Add(-Year) })
	const says = "its ticket cannot be used: the cluster's authority is valid from "
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("the machine says %v, want %q", err, says)
	}
	c.Audit.Await(t, mark, Record{"msg": kindJoin, "verdict": "granted", "role": policy.Worker})
	c.Audit.Never(t, mark, Record{"msg": kindGeneration})
}

// Year is as long as a policy by "constellation local" accepts an image, and a day.
const Year = 366 * 24 * time.Hour

// seek has an honest machine look for its cluster at a listener of this computer, and
// judge what it finds by a clock. It returns why the machine does not get a ticket.
func (c *Cluster) seek(t testing.TB, l net.Listener, now func() time.Time) error {
	t.Helper()
	at := netip.MustParseAddrPort(l.Addr().String())
	asker := &join.Asker{
		Provider: surroundings{c, at.Addr()}, Issuer: c.Machine(t, c.Image), Port: int(at.Port()), Now: now,
		Judge: func(d *policy.Document) (attestation.Verifier, error) {
			return tpm.NewVerifier(d, tpm.VerifierOptions{Now: now})
		},
	}
	request := newcomer()
	ticket, err := asker.Ask(t.Context(), join.Disk{UUID: request.DiskUuid, Fresh: true})
	if err == nil {
		ticket.Close()
	}
	return err
}

// surroundings name the cluster, and one control plane.
type surroundings struct {
	c  *Cluster
	at netip.Addr
}

// Self implements provider.Provider.
func (surroundings) Self(context.Context) (provider.Self, error) {
	return provider.Self{Name: newcomer().NodeName, Role: provider.Worker}, nil
}

// Peers implements provider.Provider.
func (s surroundings) Peers(context.Context) ([]provider.Peer, error) {
	return []provider.Peer{{Name: s.c.ControlPlane.Name, Role: provider.ControlPlane, Address: s.at}}, nil
}

// Endpoint implements provider.Provider.
func (s surroundings) Endpoint(context.Context) (string, error) {
	return net.JoinHostPort(s.at.String(), "6443"), nil
}

// Cluster implements provider.Provider.
func (s surroundings) Cluster(context.Context) (*provider.Cluster, error) {
	return &provider.Cluster{ID: [measurements.ClusterIDSize]byte(s.c.ID), Policy: s.c.Policy}, nil
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// forward leads from a port of this computer to the cluster's service.
func (c *Cluster) forward(t testing.TB) net.Listener {
	t.Helper()
	l := listen(t)
	Forward(t, l, c.Dial)
	return l
}
