// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/provider"
)

// leaveTime is how long the others may take to let a control plane go.
const leaveTime = 3 * time.Minute

// members are the nodes of the control plane, each with whether it is ready. The members
// of etcd are among them: one that only just joins may not be one yet.
type members map[string]bool

// others counts those besides one, and how many of them are ready.
func (m members) others(name string) (all, ready int) {
	for other, well := range m {
		if other == name {
			continue
		}
		if all++; well {
			ready++
		}
	}
	return all, ready
}

// mayLose says why a control plane must stay: etcd works while most of its members do.
func (m members) mayLose(name string) error {
	all, ready := m.others(name)
	if need := all/2 + 1; ready < need {
		return fmt.Errorf("without it %d control planes are left, of which %d must be ready, and %d are\nwhat to do: see to the others first: constellation local status, and kubectl get nodes", all, need, ready)
	}
	return nil
}

// withoutIt says whether most of the members are ready even if one has no power any more.
func (m members) withoutIt(name string) bool {
	_, ready := m.others(name)
	return ready >= len(m)/2+1
}

// leave takes a control plane out of the cluster: the policy does not list it any more, its
// etcd is no member any more, and then it has no power any more. If that is safe it is cut
// off before: of two members, the one that goes has to agree. All of it may be done again.
func (r *removal) leave(ctx context.Context) error {
	k, err := r.kube()
	if err != nil {
		return err
	}
	m, err := k.members(ctx)
	if err != nil {
		return err
	}
	if err := m.mayLose(r.name); err != nil {
		return &stays{err}
	}
	if err := r.unlist(ctx); err != nil {
		return err
	}
	if m.withoutIt(r.name) {
		if err := cutPower(ctx, r.client, r.name); err != nil {
			return err
		}
	}
	return k.release(ctx, r.name)
}

// stays is why a control plane is not removed; nothing was changed.
type stays struct{ error }

// unlist takes a machine out of the cluster's policy: the name is free for another one, and
// this one cannot come back.
func (r *removal) unlist(ctx context.Context) error {
	known, err := policy.Parse(r.spec.Cluster.Policy)
	if err != nil {
		return err
	}
	trust, err := trustOf(r.dir)
	if err != nil {
		return err
	}
	trust = withListed(trust, known)
	trust.Inventory = slices.DeleteFunc(trust.Inventory, func(e policy.Entry) bool { return e.Name == r.name })
	document, err := trust.Policy()
	if err != nil {
		return err
	}
	r.spec.Cluster = &supervisor.ClusterSpec{ID: r.spec.Cluster.ID, Policy: document}
	return usePolicy(ctx, r.dir, document)
}

// members are the nodes of the control plane.
func (k *kube) members(ctx context.Context) (members, error) {
	nodes, err := k.nodes(ctx)
	if err != nil {
		return nil, err
	}
	all, err := k.bound(ctx)
	if err != nil {
		return nil, err
	}
	out := members{}
	for _, m := range all {
		if m.Data["role"] == string(provider.ControlPlane) {
			lacks, known := nodes[m.Data["name"]]
			out[m.Data["name"]] = known && lacks == ""
		}
	}
	return out, nil
}

// bound are the objects that say which machine is which node.
func (k *kube) bound(ctx context.Context) ([]corev1.ConfigMap, error) {
	var all corev1.ConfigMapList
	if err := k.client.Get().Namespace(bindings.Namespace).Resource("configmaps").Do(ctx).Into(&all); err != nil {
		return nil, fmt.Errorf("list what is bound to nodes: %w", err)
	}
	return all.Items, nil
}

// release deletes the object that makes a machine a node of the control plane, and waits
// until the others have let it go (package bindings, Leaving).
func (k *kube) release(ctx context.Context, name string) error {
	deleted := ""
	return persist(ctx, func(ctx context.Context) error {
		all, err := k.bound(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(m corev1.ConfigMap) bool {
			return m.Data["name"] == name && m.Data["role"] == string(provider.ControlPlane)
		})
		if i < 0 {
			return nil
		}
		if deleted != all[i].Name {
			if err := k.remove(ctx, bindings.Namespace, "configmaps", all[i].Name); err != nil {
				return err
			}
			deleted = all[i].Name
		}
		if why := all[i].Annotations[bindings.WhyStill]; why != "" {
			return fmt.Errorf("the others do not take it out of their etcd: %s", why)
		}
		return errors.New("the others have not taken it out of their etcd")
	})
}

// persist tries something again until there is no error, for as long as the others may
// take. API servers whose etcd has lost a member, or its leader, fail for a moment.
func persist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, leaveTime, fmt.Errorf("not within %v", leaveTime))
	defer cancel()
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if cause := pause(ctx, askEvery/2); cause != nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
	}
}
