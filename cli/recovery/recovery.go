// SPDX-License-Identifier: Apache-2.0

// Package recovery is the command "constellation recover": it brings a cluster back of
// which no control plane is left.
//
// While one control plane lives, the others and the workers get what opens their disks
// from it, by themselves. When none does, the master secret is nowhere but with its
// owner, and every machine waits. This command verifies the machines of the control plane
// and sends it to them (package cluster has how).
package recovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/services/provider"
)

// Options are what tests put in place of real machines. The zero value is real.
type Options struct {
	// Verifier makes the verifier of nodes; cluster.Trust.Verifier if nil.
	Verifier func(cluster.Trust) (attestation.Verifier, error)
}

// Command makes "recover".
func Command(o Options) *cobra.Command {
	p := cluster.RecoverPlan{Verifier: o.Verifier}
	var dir string
	var nodes []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "recover {--node HOST:PORT... | --dir FOLDER}",
		Short: "Bring a cluster back of which no control plane is left",
		Long: `recover brings a cluster back after all its control planes were down at once: after a
power cut, for example. Their disks are encrypted, and what opens them is derived from
the master secret, which the cluster keeps in memory only. While one control plane is up,
machines that restart come back by themselves, and this command is not needed.

Name the machines of the control plane: with --node, or by the folder of a local cluster,
whose machines are known. With several, name all: none of them comes back before most of
them do. Workers are not named: the secret is not for them, and they come back by
themselves once there is a control plane.

Each machine is verified as init verifies it: what it booted, and by which TPM that is
proven; it belongs to no cluster since it booted, or to this one. If one fails, nothing is
sent to any. Then the master secret and the init secret are sent to those that wait, and
what they do is shown. Machines that are members of the cluster are left alone, so that
the same command can be run again: after a failure, a cut connection, a restart.

That a disk is its newest copy nobody can tell a machine whose cluster is gone: who could
put an older copy in its place is believed. The machine's console says so.

Exit codes: 0 the control plane is back, 1 a machine was refused, 2 all else.`,
		Example: `  constellation recover --node 192.0.2.1:9000
  constellation recover --node 192.0.2.1:9000 --node 192.0.2.2:9000 --node 192.0.2.3:9000
  constellation recover --dir constellation-local`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := progress.New(cmd)
			if err != nil {
				return err
			}
			plan := p
			if plan.Nodes, err = find(cmd.Context(), r, nodes, dir); err != nil {
				return cluster.Explain(cmd, r, err)
			}
			for name, path := range map[string]*string{"config": &plan.Config, "master-secret": &plan.MasterSecret, "init-secret": &plan.InitSecret} {
				if dir != "" && !cmd.Flags().Changed(name) {
					*path = filepath.Join(dir, *path)
				}
				*path = command.FromCaller(*path)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, cluster.ErrTimeout)
			defer cancel()
			out, err := cluster.Recover(ctx, r, plan)
			if err != nil {
				return cluster.Explain(cmd, r, err)
			}
			return r.Result(out, out.Describe()+"Workers come back by themselves.\n")
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&nodes, "node", nil, "HOST:PORT of the bootstrapper of a control plane; can be repeated")
	f.StringVar(&dir, "dir", "", "folder of a local cluster: its machines, and its files if no other are named")
	f.StringVar(&p.Config, "config", config.DefaultFile, "configuration of the cluster")
	f.StringVar(&p.MasterSecret, "master-secret", clikeys.DefaultFile, "the cluster's master secret")
	f.StringVar(&p.InitSecret, "init-secret", initsecret.DefaultFile, "the secret whose hash the machines were told")
	f.DurationVar(&timeout, "timeout", 30*time.Minute, "how long it may take in all")
	cmd.MarkFlagsOneRequired("node", "dir")
	return cmd
}

// find says where the machines are: those that were named, or else the control planes of
// a local cluster.
func find(ctx context.Context, r *progress.Reporter, nodes []string, dir string) (out []cluster.Address, err error) {
	seen := map[string]bool{}
	for _, address := range nodes {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			return nil, fmt.Errorf("--node %q: want HOST:PORT, with the port of the machine's bootstrapper (9000, if nothing is in between)", address)
		}
		if seen[address] {
			return nil, fmt.Errorf("--node %s is there twice", address)
		}
		seen[address] = true
		out = append(out, cluster.Address{Name: address, Address: address})
	}
	if len(out) > 0 {
		return out, nil
	}
	status, err := supervisor.NewClient(supervisor.Dir(command.FromCaller(dir))).Status(ctx)
	if errors.Is(err, supervisor.ErrNotRunning) {
		return nil, fmt.Errorf("no local cluster runs in %s\nwhat to do: start its machines with \"constellation local up --dir %[1]s\", which brings the cluster back as well", dir)
	}
	if err != nil {
		return nil, err
	}
	return Waiting(r, status)
}

// Waiting are the machines of a local cluster that may wait: control planes that are
// switched on.
func Waiting(r *progress.Reporter, s *supervisor.Status) (out []cluster.Address, err error) {
	for _, m := range s.Machines {
		switch {
		case m.Role != provider.ControlPlane:
		case m.State == supervisor.StateStopped || m.State == supervisor.StateFailed || m.State == supervisor.StateIdle:
			r.Notef("%s is %s, and is left out", m.Name, m.State)
		default:
			out = append(out, cluster.Address{Name: m.Name, Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(int(m.Port)))})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nobody waits: no control plane of this cluster is switched on\nwhat to do: switch them on with \"constellation local start MACHINE\"")
	}
	return out, nil
}
