// SPDX-License-Identifier: Apache-2.0

// Package verify is the command "constellation verify": have every node of a running
// cluster prove what it booted, and judge that by a policy.
package verify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	clipolicy "github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
)

// flags are the command's.
type flags struct {
	policy       string
	clusterID    string
	masterSecret string
	kubeconfig   string
	measurements []string
	timeout      time.Duration
	events       bool
}

// Command makes "verify".
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "verify {NODE... | --kubeconfig FILE}",
		Short: "Have every node of a cluster prove what it runs",
		Long: `verify asks the VerificationService of each node for evidence over a fresh nonce,
challenges the node's TPM, and judges by the policy: which image booted, whose TPM it is,
and that the node belongs to this cluster, which is in PCR 15. All that evidence is
compared with comes from you: the policy is what init has written, or one of your own,
and the cluster's identity follows from its master secret, or is named. Nothing is
believed of who answers, nor of the way to it.

NODE is [NAME=]HOST:PORT by gRPC (port 9446), or [NAME=]http://HOST:PORT (port 9447).
With --kubeconfig the API server lists the nodes, and carries questions and answers.
Neither that list nor a NODE's name proves anything: two nodes that answer with one
TPM are both refused, and so is one that is named otherwise than the policy's inventory
names its TPM. A node that is on no list is not seen; machines of the inventory that
were not among the nodes are named.

With --measurements, the predictions of images, a node that booted something else is
compared event by event with the closest one, and one that is verified is shown with
the digests of what its image is made of.

What is proven ends where the image's measurements do: firmware, kernel, initrd,
command line, and every file of the root file system. Containers are not measured; see
docs/verify.md.

Exit codes: 0 all nodes are verified, 1 one or more are refused or gave no answer,
2 nothing was judged: wrong usage, a broken policy, no list of nodes.`,
		Example: `  constellation verify --kubeconfig constellation-kubeconfig --measurements measurements.json
  constellation verify --policy policy.json --cluster-id 0f3a… --kubeconfig admin.conf
  constellation verify --policy policy.json --cluster-id 0f3a… node-1=192.0.2.1:9446 node-2=192.0.2.2:9446
  constellation verify --policy policy.json --cluster-id 0f3a… --kubeconfig admin.conf --output json | jq '.nodes[] | select(.verdict != "verified")'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			document, err := evidence.ReadPolicy(cmd, f.policy)
			if err != nil {
				return err
			}
			r, err := f.run(cmd, document, args)
			if err != nil {
				return err
			}
			return r.write(cmd, f.events)
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", clipolicy.DefaultFile, "the policy to judge by")
	f.register(cmd)
	cmd.Flags().BoolVar(&f.events, "events", false, "list every event of an explanation")
	return cmd
}

// register makes the flags that say which nodes, and what they are explained with.
func (f *flags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.clusterID, "cluster-id", "", "the cluster's identity, hexadecimal (default: that of the master secret)")
	cmd.Flags().StringVar(&f.masterSecret, "master-secret", clikeys.DefaultFile, "the cluster's master secret, from which nothing but the identity is taken")
	cmd.MarkFlagsMutuallyExclusive("cluster-id", "master-secret")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "ask all nodes that the API server lists, by way of it")
	cmd.Flags().StringArrayVar(&f.measurements, "measurements", nil, "measurements.json of an image, to explain with; can be repeated")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "how long each node has")
}

// run asks and judges. Its errors are about what the verifier brings; what the nodes
// bring is in the report.
func (f *flags) run(cmd *cobra.Command, document *policy.Document, args []string) (*report, error) {
	id, err := f.cluster()
	if err != nil {
		return nil, err
	}
	if f.timeout <= 0 {
		return nil, errors.New("--timeout: want more than nothing")
	}
	cluster, err := document.OfCluster(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.policy, err)
	}
	predictions, err := evidence.ReadPredictions(cmd, f.measurements)
	if err != nil {
		return nil, err
	}
	for i, p := range predictions {
		predictions[i] = p.Initialized(id)
	}
	v, err := tpm.NewVerifier(cluster, tpm.VerifierOptions{Predictions: predictions})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.policy, err)
	}
	nodes, err := f.nodes(cmd, args)
	if err != nil {
		return nil, err
	}
	results, err := ask(cmd.Context(), nodes, v, f.timeout)
	if err != nil {
		return nil, err
	}
	r := &report{Cluster: id, Policy: document.Digest, Nodes: results}
	r.judge(predictions, len(f.measurements) > 0)
	r.findUnseen(document.Inventory())
	return r, nil
}

// cluster is the cluster's identity.
func (f *flags) cluster() ([]byte, error) {
	if f.clusterID != "" {
		id, err := hex.DecodeString(f.clusterID)
		if err != nil || len(id) != measurements.ClusterIDSize {
			return nil, fmt.Errorf("--cluster-id: want the %d hexadecimal digits of a cluster's identity", 2*measurements.ClusterIDSize)
		}
		return id, nil
	}
	ring, err := keys.Load(command.FromCaller(f.masterSecret))
	if err != nil {
		return nil, fmt.Errorf("which cluster? %w\nwhat to do: name its identity with --cluster-id, or the file of its master secret with --master-secret", err)
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	return id[:], err
}

func (f *flags) nodes(cmd *cobra.Command, args []string) ([]node, error) {
	switch {
	case f.kubeconfig != "" && len(args) > 0:
		return nil, errors.New("name nodes, or a kubeconfig that lists them, not both")
	case f.kubeconfig != "":
		return listNodes(cmd.Context(), command.FromCaller(f.kubeconfig))
	case len(args) == 0:
		return nil, errors.New("no nodes: name them as HOST:PORT, or a kubeconfig that lists them with --kubeconfig")
	}
	return parseNodes(args)
}
