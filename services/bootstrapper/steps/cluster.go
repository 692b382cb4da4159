// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Marks of what was done in the cluster.
const (
	FinishMark   = "kubeadm-finish"
	ServicesMark = "services"
)

// pause is how often something is asked for that takes seconds to minutes, and
// unitEvery how often among these systemd is, by a program that has to start.
const (
	pause     = 2 * time.Second
	unitEvery = 5
)

// Cluster is the new cluster, as the node's own API server has it.
type Cluster interface {
	// Ready returns nil if the API server is, and else says why it is not.
	Ready(ctx context.Context) error
	// NodeReady is the same for this node.
	NodeReady(ctx context.Context) error
	// Apply applies the cluster's own services. Doing it again changes nothing.
	Apply(ctx context.Context, report Report) error
	// Await waits until the services run.
	Await(ctx context.Context, report Report) error
}

// wait asks until the answer is nil, and reports each new answer. With the context's
// end it returns the last one.
func wait(ctx context.Context, report Report, ask func(context.Context) error) error {
	said := ""
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		// What was cut off by the end says nothing.
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			report(said, 0, 0)
		}
		select {
		case <-ctx.Done():
			if said == "" {
				return ctx.Err()
			}
			return errors.New(said)
		case <-time.After(pause):
		}
	}
}

// APIServer waits for the API server.
type APIServer struct {
	Cluster Cluster
	Units   Units
	// Etcd is set on a node that is one more of a control plane: the API server waits for
	// its own etcd, and that for a vote.
	Etcd Etcd

	votes bool
}

// ID implements [Step].
func (*APIServer) ID() api.Step { return api.Step_STEP_API_SERVER }

// Run implements [Step].
func (a *APIServer) Run(ctx context.Context, report Report) (Outcome, error) {
	if a.ready(ctx) == nil {
		return Skipped, nil
	}
	asked := 0
	err := wait(ctx, report, func(ctx context.Context) error {
		err := a.ready(ctx)
		if asked++; err == nil || asked%unitEvery != 0 {
			return err
		}
		// Without kubelet the API server never comes, so that is the reason.
		if active, state, unitErr := a.Units.Active(ctx, KubeletService); unitErr == nil && !active {
			return fmt.Errorf("kubelet does not run: %s", state)
		}
		return err
	})
	if err != nil {
		return Done, fmt.Errorf("the API server does not answer: %w", err)
	}
	return Done, nil
}

func (a *APIServer) ready(ctx context.Context) error {
	if a.Etcd != nil && !a.votes {
		if err := a.Etcd.Promote(ctx); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		a.votes = true
	}
	return a.Cluster.Ready(ctx)
}

// Members are the machines that the cluster knows as its nodes.
type Members interface {
	// Enter makes sure that this machine is known, with its state disk as it was opened.
	Enter(ctx context.Context) (Outcome, error)
}

// Services has kubeadm do what needs the API server, and applies the cluster's own
// services, once: later they are the cluster's to change. The machine had nobody whom it
// could ask to let it in, or to remember its disk, so it enters itself, each time.
type Services struct {
	Cluster Cluster
	Units   Units
	Marks   Marks
	Members Members
	// Further says that the node is not the cluster's first: the cluster has its services.
	Further bool
}

// ID implements [Step].
func (*Services) ID() api.Step { return api.Step_STEP_SERVICES }

// Run implements [Step].
func (s *Services) Run(ctx context.Context, report Report) (Outcome, error) {
	outcome := Skipped
	if !s.Marks.Marked(FinishMark) {
		outcome = Done
		report("kubeadm's configuration for nodes to come", 0, 0)
		if err := s.Units.Start(ctx, KubeadmFinishService); err != nil {
			return outcome, fmt.Errorf("have kubeadm finish: %w", err)
		}
		if err := s.Marks.Mark(FinishMark); err != nil {
			return outcome, err
		}
	}
	if !s.Further && !s.Marks.Marked(ServicesMark) {
		outcome = Done
		if err := s.Cluster.Apply(ctx, report); err != nil {
			return outcome, fmt.Errorf("apply the cluster's services: %w", err)
		}
		if err := s.Marks.Mark(ServicesMark); err != nil {
			return outcome, err
		}
	}
	report("this machine among the nodes", 0, 0)
	entered, err := s.Members.Enter(ctx)
	if err != nil {
		return Done, fmt.Errorf("enter the machine among the cluster's nodes: %w", err)
	}
	return both(outcome, entered), nil
}

// Node waits until the node is ready and the cluster's services run on it.
type Node struct {
	Cluster Cluster
}

// ID implements [Step].
func (*Node) ID() api.Step { return api.Step_STEP_NODE }

// Run implements [Step].
func (n *Node) Run(ctx context.Context, report Report) (Outcome, error) {
	outcome := Skipped
	if n.Cluster.NodeReady(ctx) != nil {
		outcome = Done
		if err := wait(ctx, report, n.Cluster.NodeReady); err != nil {
			return outcome, fmt.Errorf("the node is not ready: %w", err)
		}
	}
	if err := n.Cluster.Await(ctx, report); err != nil {
		return outcome, fmt.Errorf("the cluster's services do not run: %w", err)
	}
	return outcome, nil
}
