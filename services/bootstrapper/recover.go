// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Recovery is a RecoverRequest that was checked.
type Recovery struct {
	// Keyring is the cluster's master secret. Whoever gets a Recovery wipes it.
	Keyring *keys.Keyring
	Cluster keys.ClusterID
}

// StateDisk is what can be seen of the state disk without its key.
type StateDisk struct {
	Kind api.Disk
	// UUID is a node's disk's.
	UUID string
	// Detail says, for people, why a disk cannot be used.
	Detail string
}

// Recover implements api.BootstrapperServer.
func (s *Server) Recover(r *api.RecoverRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	defer clear(r.GetMasterSecret())
	defer clear(r.InitSecret)
	ctx := stream.Context()
	if err := s.owner(ctx, r.InitSecret); err != nil {
		return err
	}
	ring, cluster, err := parseKeys(r.GetMasterSecret())
	if err != nil {
		return requestError("%v", err)
	}
	if err := s.isNode(ctx); err != nil {
		ring.Wipe()
		return err
	}
	j, err := s.begin(&Task{
		Name: taskRecover, Cluster: cluster, Wipe: ring.Wipe,
		Plan: func() (*steps.Plan, error) { return s.options.Recovery(&Recovery{ring, cluster}) },
	})
	if err != nil {
		return err
	}
	return j.watch(ctx, stream.Send)
}

// isNode wants a machine with the disk of a node.
func (s *Server) isNode(ctx context.Context) error {
	refuse := func(advice, message string) error {
		return problem(&api.Problem{Reason: api.Problem_REASON_NOT_A_NODE, Step: api.Step_STEP_DISK, Advice: advice}, message)
	}
	switch d := s.Look(ctx); d.Kind {
	case api.Disk_DISK_NODE:
		return nil
	case api.Disk_DISK_FRESH:
		return refuse("To make the machine a cluster's first node, send an Init. If it was a node, give it the disk that it had.",
			"the machine is no node that could be recovered: its state disk is blank")
	default:
		return refuse("Give the machine the disk that it had.", "the state disk cannot be used: "+d.Detail)
	}
}
