// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// Leavers are the nodes that leave a cluster's control plane. [bindings.Kubernetes] has them.
type Leavers interface {
	Leaving(ctx context.Context) ([]bindings.Leaver, error)
	// Release forgets one, and Explain says why it is not forgotten yet.
	Release(ctx context.Context, l bindings.Leaver) error
	Explain(ctx context.Context, l bindings.Leaver, why string) error
}

// leaveEvery is how often nodes of the control plane look who leaves.
const leaveEvery = 10 * time.Second

// Farewell takes the etcd of nodes that leave the control plane out of the members, and
// has the cluster forget them then. Each node does so for the others, never for itself, so
// that the last one stays.
type Farewell struct {
	// Node is this node's name.
	Node    string
	Leavers Leavers
	// Remove takes another node out of etcd's members. It refuses what would leave too few.
	Remove func(ctx context.Context, node, address string) error
	Log    *slog.Logger
}

// Run does so until ctx ends.
func (f *Farewell) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		text := ""
		if err := f.look(ctx); err != nil {
			text = err.Error()
		}
		if text != said && text != "" && ctx.Err() == nil {
			f.Log.Warn("a node of the control plane cannot leave", "error", text)
		}
		said = text
		select {
		case <-ctx.Done():
		case <-time.After(leaveEvery):
		}
	}
}

func (f *Farewell) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTime)
	defer cancel()
	all, err := f.Leavers.Leaving(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if l.Name != f.Node {
			errs = append(errs, f.see(ctx, l))
		}
	}
	return errors.Join(errs...)
}

// see sees one off.
func (f *Farewell) see(ctx context.Context, l bindings.Leaver) error {
	if err := f.Remove(ctx, l.Name, l.Address); err != nil {
		err = fmt.Errorf("etcd: %w", err)
		if l.Why != err.Error() {
			err = errors.Join(err, f.Leavers.Explain(ctx, l, err.Error()))
		}
		return fmt.Errorf("%s: %w", l.Name, err)
	}
	if err := f.Leavers.Release(ctx, l); err != nil {
		return err
	}
	f.Log.Info("a node left the control plane", "node", l.Name)
	return nil
}

// LocalLeavers are those of the cluster as this node's own API server has it.
func LocalLeavers() (Leavers, error) {
	config, err := LocalConfig()
	if err != nil {
		return nil, err
	}
	return bindings.NewKubernetes(config, bindings.Namespace)
}
