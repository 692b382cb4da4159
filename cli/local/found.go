// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/cli/recovery"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/services/provider"
)

// initialise makes the first machine a cluster, and tells the others of it.
func (u *up) initialise(ctx context.Context, spec *supervisor.Spec, s *supervisor.Status) error {
	node := s.Machines[0]
	address := bootstrapperOf(node)
	u.begin("init", "init --config %s --node %s --node-name %s", filepath.Join(u.shown, config.DefaultFile), address, node.Name)
	err := cluster.Initialise(ctx, u.report, cluster.InitPlan{
		Config: u.path(config.DefaultFile), MasterSecret: u.path(clikeys.DefaultFile), InitSecret: u.path(initsecret.DefaultFile),
		Node: address, NodeName: node.Name, Kubeconfig: u.path(cluster.DefaultKubeconfig), Server: fmt.Sprintf("127.0.0.1:%d", spec.APIPort),
		Policy: u.path(cluster.DefaultPolicy), Schedulable: spec.Count(provider.Worker) == 0,
		IfNeeded: true, Verifier: u.options.Verifier,
	})
	switch {
	case errors.Is(err, cluster.ErrMember):
		u.report.End("init", progress.Skipped, "%v", err)
	case err != nil:
		u.report.End("init", progress.Failed, "%v", err)
		return firstOf(context.Cause(ctx), err)
	default:
		u.report.End("init", progress.Done, "the cluster is initialised")
	}
	ring, err := keys.Load(u.path(clikeys.DefaultFile))
	if err != nil {
		return err
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		return err
	}
	document, err := command.ReadFile(u.path(cluster.DefaultPolicy), policy.MaxSize)
	if err != nil {
		return err
	}
	return u.name(ctx, spec, id.String(), document)
}

// name tells the machines which cluster to join, and by which policy. Those that waited
// for that start now.
func (u *up) name(ctx context.Context, spec *supervisor.Spec, id string, document []byte) error {
	spec.Cluster = &supervisor.ClusterSpec{ID: id, Policy: json.RawMessage(document)}
	if err := u.dir.WriteSpec(spec); err != nil {
		return err
	}
	return supervisor.NewClient(u.dir).Reload(ctx)
}

// comeBack recovers a cluster of which no control plane is left. That the cluster is
// there is no error.
func (u *up) comeBack(ctx context.Context, s *supervisor.Status) error {
	there := *s
	there.Machines = slices.DeleteFunc(slices.Clone(s.Machines), func(m supervisor.MachineStatus) bool { return u.off[m.Name] })
	waiting, err := recovery.Waiting(u.report, &there)
	if err != nil {
		return err
	}
	u.begin("recover", "recover --dir %s", u.shown)
	_, err = cluster.Recover(ctx, u.report, cluster.RecoverPlan{
		Config: u.path(config.DefaultFile), MasterSecret: u.path(clikeys.DefaultFile), InitSecret: u.path(initsecret.DefaultFile),
		Nodes: waiting, IfNeeded: true, Verifier: u.options.Verifier,
	})
	switch {
	case errors.Is(err, cluster.ErrMember):
		u.report.End("recover", progress.Skipped, "a control plane is there: whoever restarts comes back by itself")
		return cluster.ErrMember
	case err != nil:
		u.report.End("recover", progress.Failed, "%v", err)
		return firstOf(context.Cause(ctx), err)
	}
	u.report.End("recover", progress.Done, "the control plane is back")
	return nil
}

// admit lists the machines that are to be control planes in the cluster's policy: this
// role is not for whoever comes. They prove who they are first.
func (u *up) admit(ctx context.Context, spec *supervisor.Spec) error {
	for _, m := range u.wanted(spec) {
		if m.Role != provider.ControlPlane {
			continue
		}
		if err := u.admitOne(ctx, spec, m); err != nil {
			return err
		}
	}
	return nil
}

func (u *up) admitOne(ctx context.Context, spec *supervisor.Spec, m supervisor.MachineSpec) error {
	step := "admit/" + m.Name
	known, err := policy.Parse(spec.Cluster.Policy)
	if err != nil {
		return err
	}
	if known.Reserved(m.Name) {
		return nil
	}
	u.report.Begin(step, "find out which TPM %s has", m.Name)
	claims, trust, err := u.identify(ctx, m.Name)
	if err != nil {
		u.report.End(step, progress.Failed, "%v", err)
		return err
	}
	trust = withListed(trust, known)
	if trust, err = trust.With(claims, attestation.Grant{Name: m.Name, Role: policy.ControlPlane}); err != nil {
		return err
	}
	document, err := trust.Policy()
	if err != nil {
		return err
	}
	if err := usePolicy(ctx, u.dir, document); err != nil {
		return err
	}
	u.report.End(step, progress.Done, "the cluster's policy lists it")
	return u.name(ctx, spec, spec.Cluster.ID, document)
}

// withListed also trusts the machines that the cluster's policy lists.
func withListed(trust cluster.Trust, known *policy.Document) cluster.Trust {
	listed := slices.DeleteFunc(known.Inventory(), func(e policy.Entry) bool {
		return slices.ContainsFunc(trust.Inventory, func(there policy.Entry) bool { return there.Name == e.Name })
	})
	trust.Inventory = append(slices.Clone(trust.Inventory), listed...)
	return trust
}

// usePolicy makes the cluster go by another policy, and keeps it in the folder.
func usePolicy(ctx context.Context, dir supervisor.Dir, document []byte) error {
	k, err := newKube(filepath.Join(string(dir), cluster.DefaultKubeconfig))
	if err != nil {
		return err
	}
	if err := k.setPolicy(ctx, document); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(string(dir), cluster.DefaultPolicy), document, 0o600)
}

// identify verifies a machine once it has booted. Nothing is sent to it.
func (u *up) identify(ctx context.Context, name string) (*attestation.Claims, cluster.Trust, error) {
	trust, v, err := u.trust()
	if err != nil {
		return nil, trust, err
	}
	for {
		s, err := u.running(ctx)
		if err != nil {
			return nil, trust, err
		}
		i := slices.IndexFunc(s.Machines, func(m supervisor.MachineStatus) bool { return m.Name == name })
		if i >= 0 && s.Machines[i].State == supervisor.StateRunning {
			node, err := cluster.Connect(ctx, bootstrapperOf(s.Machines[i]), v, nil, nil)
			if err != nil {
				return nil, trust, err
			}
			return node.Claims, trust, node.Close()
		}
		if err := pause(ctx, poll); err != nil {
			return nil, trust, err
		}
	}
}
