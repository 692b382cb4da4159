// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
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
		Short: "Take a worker out of the cluster, and remove the machine",
		Long: `remove cuts a worker's power, deletes its node, and what the cluster knows of its name and
its disk, and then the machine with its disk and TPM. Its pods end; those that something
looks after (a Deployment, for example) start elsewhere. Run it again if it was
interrupted.

A control plane cannot be removed so far: its etcd would stay a member of the others'.

With --force the cluster is not asked: for one that does not answer any more. If it does
answer later, it still has the node: kubectl delete node, and see docs/join.md.`,
		Example:           `  constellation local remove worker-2`,
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
	cmd.Flags().BoolVar(&force, "force", false, "do not ask the cluster")
	return cmd
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
	i := slices.IndexFunc(spec.Machines, func(m supervisor.MachineSpec) bool { return m.Name == name })
	switch {
	case i < 0:
		return fmt.Errorf("the cluster has no machine %q: see constellation local status", name)
	case spec.Machines[i].Role == provider.ControlPlane:
		return fmt.Errorf("%s is a control plane: its etcd would stay a member of the others', so that it is not removed\nwhat to do: leave it, or make another cluster", name)
	}
	client := supervisor.NewClient(dir)
	if err := cutPower(ctx, client, name); err != nil {
		return notRunning(dir, err)
	}
	if !force && spec.Cluster != nil {
		if err := forgetNode(ctx, dir, name); err != nil {
			return fmt.Errorf("the cluster does not forget %s: %w\nwhat to do: run this again when its API server answers, or remove the machine alone (--force)", name, err)
		}
	}
	spec.Without(name)
	if err := dir.WriteSpec(spec); err != nil {
		return err
	}
	if err := client.Reload(ctx); err != nil {
		return notRunning(dir, err)
	}
	return dir.RemoveMachine(name)
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

func forgetNode(ctx context.Context, dir supervisor.Dir, name string) error {
	k, err := newKube(filepath.Join(string(dir), cluster.DefaultKubeconfig))
	if err != nil {
		return err
	}
	return k.forget(ctx, name)
}
