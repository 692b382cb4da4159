// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// Cluster is what is attacked, and what an attacker knows of it: all of it but the way to
// its audit log is known to whoever has its network and its host.
type Cluster struct {
	// Dial connects to JoinService.
	Dial func(context.Context) (net.Conn, error)
	// Audit is what JoinService writes.
	Audit *Log
	ID    keys.ClusterID
	// Policy accepts what Image measures, on TPMs by Authority, fresh and in the cluster,
	// for less than a year to come, and lets workers in that come first.
	Policy    []byte
	Image     *measurements.Prediction
	Authority *swtpmtest.Authority
	// ControlPlane is a node that the policy's inventory lists, Worker one that it does not.
	ControlPlane, Worker Node
	// WorkerTPM is the worker's own TPM, after a reboot.
	WorkerTPM func(testing.TB) transport.TPM
	// Nodes are the names of the objects that make a machine a node, in their order.
	Nodes func(testing.TB) []string
}

// Node is one of the cluster's.
type Node struct{ Name, Disk string }

// How long things may take on machines that are emulated.
const (
	handshakeTime = 90 * time.Second
	requestTime   = 3 * time.Minute
)

// Machine makes a TPM by the cluster's authority, and boots an image on it.
func (c *Cluster) Machine(t testing.TB, image *measurements.Prediction) *tpm.Issuer {
	t.Helper()
	return boot(t, swtpmtest.Start(t, c.Authority), image)
}

// boot puts into a TPM what a machine's boot does.
func boot(t testing.TB, device transport.TPM, image *measurements.Prediction) *tpm.Issuer {
	t.Helper()
	log := swtpmtest.Boot(t, device, image)
	i, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// locked boots an image on a TPM, and then makes the machine a cluster's.
func locked(t testing.TB, device transport.TPM, image *measurements.Prediction, id []byte) *tpm.Issuer {
	t.Helper()
	i := boot(t, device, image)
	swtpmtest.Extend(t, device, measurements.ClusterPCR, measurements.ClusterDigests(id))
	return i
}

// Events of an image, by how their descriptions begin.
const (
	eventUKI         = "UKI "
	eventCommandLine = "kernel command line"
)

// another is an image that is the same but for one event, whose digest is another.
func another(t testing.TB, image *measurements.Prediction, event string) *measurements.Prediction {
	t.Helper()
	other := *image
	other.Events = slices.Clone(image.Events)
	i := slices.IndexFunc(other.Events, func(e measurements.Event) bool { return strings.HasPrefix(e.Description, event) })
	if i < 0 {
		t.Fatalf("the image's measurements have no %q", event)
	}
	digests := measurements.Digests{}
	for algorithm, digest := range image.Events[i].Digests {
		digests[algorithm] = bytes.Repeat([]byte{digest[0] ^ 1}, len(digest))
	}
	other.Events[i].Digests = digests
	other.PCRs = other.Replay()
	return &other
}

// device is by what JoinService knows a machine.
func device(t testing.TB, i *tpm.Issuer) string {
	t.Helper()
	id, err := i.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return bindings.Device(id)
}

// judge is what honest machines judge a service by: the policy, and PCR 15.
func (c *Cluster) judge(t testing.TB) attestation.Verifier {
	t.Helper()
	d, err := policy.Parse(c.Policy)
	if err == nil {
		d, err = d.OfCluster(c.ID[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.NewVerifier(d, tpm.VerifierOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// session is a machine's with the service.
type session struct {
	client   api.JoinServiceClient
	conn     *grpc.ClientConn
	outcomes chan atls.Outcome
}

// connect makes the channel of a machine over what dial connects it to.
func (c *Cluster) connect(t testing.TB, issuer attestation.Issuer, dial func(context.Context) (net.Conn, error)) *session {
	t.Helper()
	s := &session{outcomes: make(chan atls.Outcome, 1)}
	channel, err := atls.ClientMutual(issuer, []attestation.Verifier{c.judge(t)}, atls.Options{Timeout: handshakeTime, Observe: func(o atls.Outcome) {
		select {
		case s.outcomes <- o:
		default: // gRPC tries again
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.conn, err = grpc.NewClient("passthrough:///joinservice", grpc.WithTransportCredentials(channel),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: handshakeTime}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	s.client = api.NewJoinServiceClient(s.conn)
	return s
}

// handshake is how the first one ended.
func (s *session) handshake(t testing.TB) error {
	t.Helper()
	select {
	case o := <-s.outcomes:
		return o.Err
	case <-time.After(handshakeTime):
		t.Fatal("no handshake has ended")
		return nil
	}
}

// wantTurnedAway wants the channel to refuse a machine before it can ask for anything, and
// both ends to say why.
func (c *Cluster) wantTurnedAway(t testing.TB, issuer attestation.Issuer, dial func(context.Context) (net.Conn, error), reason attestation.Reason) {
	t.Helper()
	mark, nodes := c.Audit.Mark(), c.Nodes(t)
	s := c.connect(t, issuer, dial)
	ctx, cancel := context.WithTimeout(t.Context(), requestTime)
	defer cancel()
	_, err := s.client.IssueJoinTicket(ctx, newcomer())
	s.conn.Close()
	if err == nil {
		t.Error("it got a ticket")
	}
	wantPeersReason(t, s.handshake(t), reason)
	c.Audit.Await(t, mark, Record{"msg": "handshake", "verdict": "refused", "reason": reason.String()})
	c.Audit.Never(t, mark, Record{"verdict": "granted"})
	if now := c.Nodes(t); !slices.Equal(now, nodes) {
		t.Errorf("nodes are %v, and were %v", now, nodes)
	}
}

// wantPeersReason wants the service to have said why it refuses.
func wantPeersReason(t testing.TB, err error, reason attestation.Reason) {
	t.Helper()
	var e *atls.Error
	if !errors.As(err, &e) || !e.ByPeer || e.Reason != reason {
		t.Errorf("the machine is told %v, want the service's refusal for %v", err, reason)
	}
}

// wantRefused wants a request of a machine that the channel lets in to be refused for a
// reason, which the machine is told, and nothing to have changed.
func (c *Cluster) wantRefused(t testing.TB, i *tpm.Issuer, kind, reason string, ask func(context.Context, api.JoinServiceClient) error) {
	t.Helper()
	mark, nodes := c.Audit.Mark(), c.Nodes(t)
	s := c.connect(t, i, c.Dial)
	defer s.conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), requestTime)
	defer cancel()
	err := ask(ctx, s.client)
	if handshake := s.handshake(t); handshake != nil {
		t.Fatalf("the channel refuses the machine: %v", handshake)
	}
	if got := refusalOf(err); got.GetReason() != reason || got.GetAdvice() == "" {
		t.Errorf("the machine is told %v, reason %q, want %q", err, got.GetReason(), reason)
	}
	c.Audit.Await(t, mark, Record{"msg": kind, "verdict": "refused", "reason": reason, "device": device(t, i)})
	c.Audit.Never(t, mark, Record{"verdict": "granted"})
	if now := c.Nodes(t); !slices.Equal(now, nodes) {
		t.Errorf("nodes are %v, and were %v", now, nodes)
	}
}

// refusalOf is what a service says of its refusal; nil if it was none of its own.
func refusalOf(err error) *api.Refusal {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*api.Refusal); ok {
			return r
		}
	}
	return nil
}
