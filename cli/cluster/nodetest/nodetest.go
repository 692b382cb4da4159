// SPDX-License-Identifier: Apache-2.0

// Package nodetest is a node for tests: a Bootstrapper on a real attested channel, that
// does what the test wants and remembers what it was sent.
package nodetest

import (
	"context"
	"crypto/sha256"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Node implements the service of bootstrapper.proto. Its fields are set before it serves.
type Node struct {
	api.UnimplementedBootstrapperServer

	// InitSecretHash is what its surroundings told it; zero refuses every Init.
	InitSecretHash [sha256.Size]byte
	// Kubeconfig is what Init ends with; made if nil.
	Kubeconfig []byte
	// Steps are gone through by Init.
	Steps []api.Step
	// OnStep, if set, is called at each step of each call, counted from 1. An error ends
	// the call.
	OnStep func(call int, step api.Step) error
	// Disk is what the state disk is, and Of the cluster whose node's it is.
	Disk api.Disk
	Of   keys.ClusterID
	// State is that of a node that is no member; waiting if zero.
	State api.State
	// OnMember, if set, is called when it becomes one.
	OnMember func(keys.ClusterID)

	mu       sync.Mutex
	statuses int
	requests []*api.InitRequest
	recovers []*api.RecoverRequest
	calls    int
	done     map[api.Step]bool
	member   bool
}

// Serve answers on a listener with a prover's channel until ctx is done.
func (n *Node) Serve(ctx context.Context, l net.Listener, issuer attestation.Issuer) error {
	channel, err := atls.ServerProve(issuer, atls.Options{QuotesPerSecond: 1000, QuoteBurst: 1000})
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(channel), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}))
	api.RegisterBootstrapperServer(server, n)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(l)
}

// Calls is how often the status was asked for, and what Init was sent.
func (n *Node) Calls() (statuses int, requests []*api.InitRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses, append([]*api.InitRequest(nil), n.requests...)
}

// Status implements api.BootstrapperServer.
func (n *Node) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses++
	s := &api.StatusResponse{State: api.State_STATE_WAITING, Disk: n.Disk, Image: &api.Image{Name: "constellation", Version: "1", Flavour: "test"}}
	if n.State != api.State_STATE_UNSPECIFIED {
		s.State = n.State
	}
	if n.member {
		s.State = api.State_STATE_MEMBER
	}
	return s, nil
}

// Recoveries are what Recover was sent.
func (n *Node) Recoveries() []*api.RecoverRequest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*api.RecoverRequest(nil), n.recovers...)
}

// Join makes the node a member of a cluster, as one that was let in.
func (n *Node) Join(id keys.ClusterID) {
	n.mu.Lock()
	before := n.member
	n.member = true
	n.mu.Unlock()
	if n.OnMember != nil && !before {
		n.OnMember(id)
	}
}

// Init implements api.BootstrapperServer.
func (n *Node) Init(r *api.InitRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	n.mu.Lock()
	n.requests = append(n.requests, r)
	n.mu.Unlock()
	id, err := n.admit(r.InitSecret, r.GetMasterSecret())
	if err != nil {
		return err
	}
	return n.work(id, stream)
}

// Recover implements api.BootstrapperServer.
func (n *Node) Recover(r *api.RecoverRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	n.mu.Lock()
	n.recovers = append(n.recovers, r)
	n.mu.Unlock()
	id, err := n.admit(r.InitSecret, r.GetMasterSecret())
	switch {
	case err != nil:
		return err
	case n.Disk != api.Disk_DISK_NODE:
		return Problem(codes.FailedPrecondition, "the disk is not a node's", &api.Problem{Reason: api.Problem_REASON_NOT_A_NODE})
	case id != n.Of:
		return Problem(codes.PermissionDenied, "the disk is of another cluster", &api.Problem{Reason: api.Problem_REASON_OTHER_CLUSTER})
	}
	return n.work(id, stream)
}

// admit says whether a call is the owner's, and for which cluster.
func (n *Node) admit(initSecret, master []byte) (keys.ClusterID, error) {
	if sha256.Sum256(initSecret) != n.InitSecretHash {
		return keys.ClusterID{}, Problem(codes.PermissionDenied, "the init secret is not the owner's", &api.Problem{
			Reason: api.Problem_REASON_OWNER, Advice: "send the secret whose hash the machine was told",
		})
	}
	ring, err := keys.Parse(master)
	if err != nil {
		return keys.ClusterID{}, Problem(codes.InvalidArgument, err.Error(), &api.Problem{Reason: api.Problem_REASON_REQUEST})
	}
	return ring.ClusterID()
}

// work goes through the steps, and ends with the result.
func (n *Node) work(id keys.ClusterID, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	n.mu.Lock()
	n.calls++
	call := n.calls
	if n.done == nil {
		n.done = map[api.Step]bool{}
	}
	n.mu.Unlock()
	for _, step := range n.Steps {
		if err := n.step(call, step, stream); err != nil {
			return err
		}
	}
	n.Join(id)
	n.mu.Lock()
	if n.Kubeconfig == nil {
		n.Kubeconfig = Kubeconfig("cluster")
	}
	result := &api.Result{ClusterId: id[:], Kubeconfig: n.Kubeconfig}
	n.mu.Unlock()
	return stream.Send(&api.InitResponse{Message: &api.InitResponse_Result{Result: result}})
}

func (n *Node) step(call int, step api.Step, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	send := func(state api.Progress_State, detail string) error {
		return stream.Send(&api.InitResponse{Message: &api.InitResponse_Progress{Progress: &api.Progress{Step: step, State: state, Detail: detail}}})
	}
	n.mu.Lock()
	done := n.done[step]
	n.mu.Unlock()
	if done {
		return send(api.Progress_STATE_SKIPPED, "done before")
	}
	if err := send(api.Progress_STATE_STARTED, "working"); err != nil {
		return err
	}
	if n.OnStep != nil {
		if err := n.OnStep(call, step); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.done[step] = true
	n.mu.Unlock()
	return send(api.Progress_STATE_DONE, "done")
}

// Problem is the error of a call that carries a problem.
func Problem(code codes.Code, text string, p *api.Problem) error {
	s, err := status.New(code, text).WithDetails(p)
	if err != nil {
		panic(err)
	}
	return s.Err()
}
