// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/services/provider"
)

func removeCommand(folder func() supervisor.Dir) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove MACHINE",
		Short: "Take a node out of the cluster, and remove the machine",
		Long: `remove cuts a machine's power, deletes its node, and what the cluster knows of its name and
its disk, and then the machine with its disk and TPM. Its pods end; those that something
looks after (a Deployment, for example) start elsewhere. Run it again if it was
interrupted.

A control plane is taken out of the cluster's policy as well, and out of etcd, by the
others. The last one is not removed, nor one without which etcd would not have a majority
that is ready. What it knew stays valid: the cluster's authorities and the master secret.

With --force the cluster is not asked: for a worker, when the cluster does not answer any
more. If it does answer later, it still has the node: kubectl delete node, and see
docs/join.md.`,
		Example: `  constellation local remove worker-2
  constellation local remove control-plane-3`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: machineNames(folder),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			if err := removeMachine(cmd.Context(), dir, args[0], force); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is gone\n", args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "do not ask the cluster (workers)")
	return cmd
}

// removal is one run of the command.
type removal struct {
	dir    supervisor.Dir
	spec   *supervisor.Spec
	client *supervisor.Client
	name   string
}

func removeMachine(ctx context.Context, dir supervisor.Dir, name string, force bool) error {
	if _, err := dir.Spec(); err != nil {
		return notRunning(dir, supervisor.ErrNotRunning)
	}
	unlock, err := dir.LockCommand()
	if err != nil {
		return fmt.Errorf("%s: %w\nwhat to do: wait for it", dir, err)
	}
	defer unlock()
	spec, err := dir.Spec()
	if err != nil {
		return err
	}
	r := &removal{dir: dir, spec: spec, client: supervisor.NewClient(dir), name: name}
	role, err := r.check(force)
	if err != nil {
		return err
	}
	if role == provider.ControlPlane && spec.Cluster != nil {
		if err := r.leave(ctx); errors.As(err, new(*stays)) {
			return fmt.Errorf("%s is not removed: %w", name, err)
		} else if err != nil {
			return notRunning(dir, fmt.Errorf("%s does not leave the control plane: %w\nwhat to do: run this again", name, err))
		}
	}
	return r.remove(ctx, role, force)
}

// check refuses what is never done.
func (r *removal) check(force bool) (provider.Role, error) {
	i := slices.IndexFunc(r.spec.Machines, func(m supervisor.MachineSpec) bool { return m.Name == r.name })
	if i < 0 {
		return "", fmt.Errorf("the cluster has no machine %q: see constellation local status", r.name)
	}
	role := r.spec.Machines[i].Role
	switch {
	case role == provider.ControlPlane && r.spec.Count(role) == 1:
		return role, fmt.Errorf("%s is the only control plane: without it there is no cluster\nwhat to do: constellation local down ends the cluster and removes everything", r.name)
	case role == provider.ControlPlane && force:
		return role, fmt.Errorf("%s is a control plane: without asking the cluster its etcd would stay a member of the others'\nwhat to do: leave out --force", r.name)
	}
	return role, nil
}

// remove removes a machine that has left the control plane, or was never in it.
func (r *removal) remove(ctx context.Context, role provider.Role, force bool) error {
	if err := cutPower(ctx, r.client, r.name); err != nil {
		return notRunning(r.dir, err)
	}
	if !force && r.spec.Cluster != nil {
		k, err := r.kube()
		switch {
		case err != nil:
		case role == provider.ControlPlane:
			err = persist(ctx, func(ctx context.Context) error { return k.forget(ctx, r.name) })
		default:
			err = k.forget(ctx, r.name)
		}
		if err != nil {
			return fmt.Errorf("the cluster does not forget %s: %w\nwhat to do: run this again when its API server answers, or remove the machine alone (--force)", r.name, err)
		}
	}
	r.spec.Without(r.name)
	if err := r.dir.WriteSpec(r.spec); err != nil {
		return err
	}
	if err := r.client.Reload(ctx); err != nil {
		return notRunning(r.dir, err)
	}
	return r.dir.RemoveMachine(r.name)
}

// kube is the cluster's API server.
func (r *removal) kube() (*kube, error) {
	return newKube(filepath.Join(string(r.dir), cluster.DefaultKubeconfig))
}

// cutPower stops a machine unless it is off.
func cutPower(ctx context.Context, client *supervisor.Client, name string) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	for _, m := range s.Machines {
		off := m.State == supervisor.StateStopped || m.State == supervisor.StateFailed || m.State == supervisor.StateIdle
		if m.Name == name && !off {
			return client.Stop(ctx, name)
		}
	}
	return nil
}
