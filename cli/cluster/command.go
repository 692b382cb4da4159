// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	"github.com/constellation-os/constellation/cli/image"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/services/provider"
)

// Commands are "init", "status" and "kubeconfig".
func Commands() []*cobra.Command {
	return []*cobra.Command{initCommand(), statusCommand(), kubeconfigCommand()}
}

// ErrTimeout says that a node did not answer in time.
var ErrTimeout = errors.New("it took too long (--timeout)")

func initCommand() *cobra.Command {
	var p InitPlan
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "init --node HOST:PORT --node-name NAME",
		Short: "Make a machine that has booted the first node of a cluster",
		Long: `init connects to a machine, verifies by the configuration's policy what it booted and by
which TPM that is proven, and says what it verified. Only then it sends the machine
anything: the init secret, the cluster's master secret, and what the cluster is to be,
with the policy by which it lets other machines in: the same, in which the inventory
lists this machine as well. A machine that fails is sent nothing.

It shows the machine's progress, and ends with the kubeconfig of the administrator. After
a failure, a cut connection or a restart of the machine, run it again: it continues.

Exit codes: 0 the cluster is there, 1 the machine was refused, 2 all else.`,
		Example: `  constellation init --node 192.0.2.1:9000 --node-name node-1`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := provider.CheckName(p.NodeName); err != nil {
				return fmt.Errorf("--node-name: %w", err)
			}
			r, err := progress.New(cmd)
			if err != nil {
				return err
			}
			plan := p
			for _, path := range []*string{&plan.Config, &plan.MasterSecret, &plan.InitSecret, &plan.Kubeconfig, &plan.Policy} {
				*path = command.FromCaller(*path)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, ErrTimeout)
			defer cancel()
			if err := Initialise(ctx, r, plan); err != nil {
				return Explain(cmd, r, err)
			}
			return r.Result(map[string]string{"kubeconfig": p.Kubeconfig}, fmt.Sprintf("The cluster is there.\n\n  kubectl --kubeconfig %s get nodes\n", p.Kubeconfig))
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Config, "config", config.DefaultFile, "configuration of the cluster")
	f.StringVar(&p.MasterSecret, "master-secret", clikeys.DefaultFile, "the cluster's master secret")
	f.StringVar(&p.InitSecret, "init-secret", initsecret.DefaultFile, "the secret whose hash the machine was told")
	f.StringVar(&p.Node, "node", "", "HOST:PORT of the machine's bootstrapper")
	f.StringVar(&p.NodeName, "node-name", "", "what the node will be called")
	f.StringVar(&p.Kubeconfig, "kubeconfig", DefaultKubeconfig, "file to write the administrator's credentials to")
	f.StringVar(&p.Policy, "policy", DefaultPolicy, "file to write the cluster's policy to")
	f.BoolVar(&p.Schedulable, "schedulable", false, "let everybody's pods run on the node: for clusters without workers")
	f.StringVar(&p.Server, "server", "", "HOST:PORT of the API server in the kubeconfig (default: the configuration's endpoint)")
	f.DurationVar(&timeout, "timeout", 30*time.Minute, "how long it may take in all")
	_ = cmd.MarkFlagRequired("node")
	_ = cmd.MarkFlagRequired("node-name")
	return cmd
}

// Explain shows what there is to an error besides its text: the comparison of a refusal,
// the node's journal. It returns the error to end the command with.
func Explain(cmd *cobra.Command, r *progress.Reporter, err error) error {
	r.Fail(err)
	var refused *RefusalError
	var failed *CallError
	switch {
	case errors.As(err, &refused):
		fmt.Fprintln(cmd.ErrOrStderr(), "constellation:", err)
		if c := tpm.Explanation(err); c != nil {
			fmt.Fprintln(cmd.ErrOrStderr())
			if err := image.WriteComparison(cmd.ErrOrStderr(), c, false); err != nil {
				return err
			}
		}
		return command.ErrMismatch
	case errors.As(err, &failed) && len(failed.Journal) > 0:
		fmt.Fprintln(cmd.ErrOrStderr(), "The end of the node's journal:")
		for _, line := range lastLines(failed.Journal, journalLines) {
			fmt.Fprintln(cmd.ErrOrStderr(), "  | "+line)
		}
	}
	return err
}

func statusCommand() *cobra.Command {
	var configFile, node, clusterID, masterSecret string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status --node HOST:PORT",
		Short: "Verify a node, and ask how it is",
		Long: `status connects to a node, verifies it by the configuration's policy, says what it
verified, and shows what the node says of itself.

Nodes that belong to a cluster are known by the cluster's identity: it is taken from the
master secret, or from --cluster-id.

Exit codes: 0 the node answers, 1 it was refused, 2 all else.`,
		Example: `  constellation status --node 192.0.2.1:9000`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := readClusterID(clusterID, command.FromCaller(masterSecret), cmd.Flags().Changed("master-secret"))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, ErrTimeout)
			defer cancel()
			return runStatus(ctx, cmd, command.FromCaller(configFile), id, node)
		},
	}
	f := cmd.Flags()
	f.StringVar(&configFile, "config", config.DefaultFile, "configuration of the cluster")
	f.StringVar(&node, "node", "", "HOST:PORT of the node's bootstrapper")
	f.StringVar(&clusterID, "cluster-id", "", "the cluster's identity, hexadecimal (default: that of the master secret)")
	f.StringVar(&masterSecret, "master-secret", clikeys.DefaultFile, "the cluster's master secret")
	f.DurationVar(&timeout, "timeout", 30*time.Second, "how long it may take")
	_ = cmd.MarkFlagRequired("node")
	cmd.MarkFlagsMutuallyExclusive("cluster-id", "master-secret")
	return cmd
}

// nodeStatus is the result of status as JSON.
type nodeStatus struct {
	Verified
	State     string `json:"node_state"`
	Step      string `json:"step,omitempty"`
	Message   string `json:"message,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"`
	Image     string `json:"image"`
}

func runStatus(ctx context.Context, cmd *cobra.Command, configFile string, id []byte, address string) error {
	c, err := ReadConfig(configFile)
	if err != nil {
		return err
	}
	trust, err := LoadTrust(c, id)
	if err != nil {
		return err
	}
	v, err := trust.Verifier()
	if err != nil {
		return err
	}
	r, err := progress.New(cmd)
	if err != nil {
		return err
	}
	node, err := Connect(ctx, address, v, nil, nil)
	if err != nil {
		return Explain(cmd, r, err)
	}
	defer node.Close()
	s := node.describe(id)
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	if format == command.JSON {
		return command.WriteJSON(cmd.OutOrStdout(), s)
	}
	return s.write(cmd.OutOrStdout())
}

// readClusterID is the cluster's identity, nil if nothing tells it: then only nodes are
// known that belong to none.
func readClusterID(text, masterSecret string, demanded bool) ([]byte, error) {
	if text != "" {
		return parseClusterID(text)
	}
	ring, err := keys.Load(masterSecret)
	if err != nil {
		if demanded {
			return nil, err
		}
		return nil, nil
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		return nil, err
	}
	return id[:], nil
}
