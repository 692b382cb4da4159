// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/disk"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// Kinds of requests in the audit log.
const (
	kindJoin       = "join-ticket"
	kindRejoin     = "rejoin-ticket"
	kindGeneration = "generation"
)

// newcomer is what an honest machine asks for that is to become a worker. Its name is
// nobody's: a machine that asks keeps the name for a while, even if it gets nothing else.
func newcomer() *api.IssueJoinTicketRequest {
	return &api.IssueJoinTicketRequest{DiskUuid: disk.NewUUID(), NodeName: "newcomer-" + strings.ToLower(rand.Text())}
}

// asks are requests of one machine, each with the reason of its refusal.
func (c *Cluster) asks(t *testing.T, i *tpm.Issuer, list []ask) {
	t.Helper()
	for _, a := range list {
		t.Log(a.what)
		c.wantRefused(t, i, a.kind, a.reason, a.do)
	}
}

type ask struct {
	what, kind, reason string
	do                 func(context.Context, api.JoinServiceClient) error
}

// joining asks for a ticket that differs from a newcomer's.
func joining(what, reason string, change func(*api.IssueJoinTicketRequest)) ask {
	return ask{what, kindJoin, reason, func(ctx context.Context, s api.JoinServiceClient) error {
		r := newcomer()
		change(r)
		_, err := s.IssueJoinTicket(ctx, r)
		return err
	}}
}

func rejoining(what, reason, uuid string) ask {
	return ask{what, kindRejoin, reason, func(ctx context.Context, s api.JoinServiceClient) error {
		_, err := s.IssueRejoinTicket(ctx, &api.IssueRejoinTicketRequest{DiskUuid: uuid})
		return err
	}}
}

// advancing asks for a step of a disk with a ticket that there never was.
func advancing(what, reason, uuid string) ask {
	return ask{what, kindGeneration, reason, func(ctx context.Context, s api.JoinServiceClient) error {
		to := disk.Generation{}.After()
		_, err := s.AdvanceGeneration(ctx, &api.AdvanceGenerationRequest{
			TicketId: rand.Text(), DiskUuid: uuid, From: &api.Generation{}, To: &api.Generation{Number: to.Number, Id: to.ID},
		})
		return err
	}}
}

// ControlPlaneFiles: an honest machine that is no node asks for what makes it one of the
// control plane.
func ControlPlaneFiles(t *testing.T, c *Cluster) {
	c.asks(t, c.Machine(t, c.Image), []ask{
		joining("as a newcomer", "role", func(r *api.IssueJoinTicketRequest) { r.Role = api.Role_ROLE_CONTROL_PLANE }),
		joining("under a control plane's name", "name", func(r *api.IssueJoinTicketRequest) {
			r.NodeName, r.Role = c.ControlPlane.Name, api.Role_ROLE_CONTROL_PLANE
		}),
	})
}

// AnothersName: it asks to be another node, or for another node's certificate.
func AnothersName(t *testing.T, c *Cluster) {
	c.asks(t, c.Machine(t, c.Image), []ask{
		joining("a worker's name", "name-taken", func(r *api.IssueJoinTicketRequest) { r.NodeName = c.Worker.Name }),
		joining("a control plane's name", "name", func(r *api.IssueJoinTicketRequest) { r.NodeName = c.ControlPlane.Name }),
		joining("a control plane's certificate", "certificate", func(r *api.IssueJoinTicketRequest) {
			r.CertificateRequest = certificateRequest(t, "system:nodes", "system:node:"+c.ControlPlane.Name)
		}),
		joining("an administrator's certificate", "certificate", func(r *api.IssueJoinTicketRequest) {
			r.CertificateRequest = certificateRequest(t, "system:masters", "system:node:"+r.NodeName)
		}),
	})
}

// AnothersDisk: it asks for the key of a disk that is another node's.
func AnothersDisk(t *testing.T, c *Cluster) {
	c.asks(t, c.Machine(t, c.Image), []ask{
		joining("as if the worker's disk were fresh", "disk-taken", func(r *api.IssueJoinTicketRequest) { r.DiskUuid = c.Worker.Disk }),
		joining("as if the control plane's disk were fresh", "disk-taken", func(r *api.IssueJoinTicketRequest) { r.DiskUuid = c.ControlPlane.Disk }),
		rejoining("as if it were the worker", "unknown-node", c.Worker.Disk),
		advancing("a step of the worker's disk", "unknown-node", c.Worker.Disk),
	})
}

// Worker: a node that was admitted asks for what is not its own.
func Worker(t *testing.T, c *Cluster) {
	c.asks(t, boot(t, c.WorkerTPM(t), c.Image), []ask{
		joining("files of the control plane", "role", func(r *api.IssueJoinTicketRequest) {
			r.NodeName, r.DiskUuid, r.Role = c.Worker.Name, c.Worker.Disk, api.Role_ROLE_CONTROL_PLANE
		}),
		joining("another name", "name", func(r *api.IssueJoinTicketRequest) { r.DiskUuid = c.Worker.Disk }),
		joining("the control plane's name", "name", func(r *api.IssueJoinTicketRequest) { r.NodeName, r.DiskUuid = c.ControlPlane.Name, c.Worker.Disk }),
		joining("a second disk", "disk", func(r *api.IssueJoinTicketRequest) { r.NodeName = c.Worker.Name }),
		rejoining("the key of the control plane's disk", "disk", c.ControlPlane.Disk),
		advancing("a step of its disk without a ticket", "ticket", c.Worker.Disk),
	})
}

// APIServerAway: an honest machine asks a control plane that is cut off from its API
// server. It is told to come again, and not why: that is in the audit log.
func APIServerAway(t *testing.T, c *Cluster) {
	i, mark := c.Machine(t, c.Image), c.Audit.Mark()
	s := c.connect(t, i, c.Dial)
	defer s.conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), requestTime)
	defer cancel()
	_, err := s.client.IssueJoinTicket(ctx, newcomer())
	got := refusalOf(err)
	const says = "api-server: the cluster's API server cannot be used: JoinService's log says why"
	if st := status.Convert(err); got.GetReason() != "api-server" || st.Code() != codes.Unavailable || st.Message() != says {
		t.Errorf("the machine is told %v, reason %q, want %q", err, got.GetReason(), says)
	}
	c.Audit.Await(t, mark, Record{"msg": kindJoin, "verdict": "refused", "reason": "api-server", "device": device(t, i)})
	c.Audit.Never(t, mark, Record{"verdict": "granted"})
}

func certificateRequest(t testing.TB, organization, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{organization}, CommonName: name},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
