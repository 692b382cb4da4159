// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/kubernetes/apply"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// applied is the result of apply as JSON.
type applied struct {
	// Policy is the SHA-256 of the new policy, Applied whether it is the cluster's now.
	Policy  measurements.Digest `json:"policy"`
	Applied bool                `json:"applied"`
	// Nodes is how many there are, FallOut those that would not be let in again.
	Nodes   int        `json:"nodes"`
	FallOut []unfitted `json:"fall_out"`
}

// unfitted is a node that does not fulfil a policy.
type unfitted struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// ApplyCommand is "policy apply": it asks all nodes, as verify does, before a policy is
// theirs.
func ApplyCommand() *cobra.Command {
	var f flags
	var force bool
	cmd := &cobra.Command{
		Use:   "apply FILE --kubeconfig FILE",
		Short: "Give a running cluster another policy, unless a node would fall out",
		Long: `apply has every node of the cluster prove itself, judges that by the policy in FILE, and
makes it the cluster's policy if every node fulfils it: each would be let in again, under
its name and in its role. If one would not, nothing is changed, and all are named with
the reason; --force changes the policy nevertheless.

Nodes go on running whatever the policy says. It is asked when a machine joins, and when a
node comes back after a reboot. JoinService follows within 5 seconds.

Exit codes: 0 it is the cluster's policy, 1 a node would fall out and nothing was changed,
2 all else.`,
		Example: `  constellation policy apply policy.json --kubeconfig constellation-kubeconfig
  constellation policy apply policy.json --kubeconfig constellation-kubeconfig --measurements new.json --output json | jq '.fall_out'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			data, err := command.ReadInput(cmd, args[0], policy.MaxSize)
			if err != nil {
				return err
			}
			document, err := policy.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w\nsee all that is wrong with it: constellation policy check %[1]s", args[0], err)
			}
			f.policy = args[0]
			r, err := f.run(cmd, document, nil)
			if err != nil {
				return err
			}
			out := applied{Policy: document.Digest, Nodes: len(r.Nodes), FallOut: r.fallOut(document)}
			if len(out.FallOut) == 0 || force {
				if err := applyPolicy(cmd.Context(), command.FromCaller(f.kubeconfig), data); err != nil {
					return err
				}
				out.Applied = true
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), out)
			} else {
				err = out.write(cmd.OutOrStdout())
			}
			if err == nil && !out.Applied {
				err = command.ErrMismatch
			}
			return err
		},
	}
	f.register(cmd)
	_ = cmd.MarkFlagRequired("kubeconfig")
	cmd.Flags().BoolVar(&force, "force", false, "even if nodes fall out: they are not let in again after a reboot")
	return cmd
}

// applyPolicy makes a document the cluster's policy.
func applyPolicy(ctx context.Context, kubeconfig string, document []byte) error {
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	return apply.Apply(ctx, config, []*unstructured.Unstructured{parameters.PolicyConfigMap(document)}, nil)
}

// fallOut are the nodes that JoinService would not let in again by a policy.
func (r *report) fallOut(d *policy.Document) []unfitted {
	out := []unfitted{}
	for _, n := range r.Nodes {
		if reason, detail := n.unfit(d); reason != "" {
			out = append(out, unfitted{n.Name, reason, detail})
		}
	}
	return out
}

// Reasons of JoinService beside those of verify.
const (
	reasonNotListed = "not-listed"
	reasonRole      = "role"
)

func (n *result) unfit(d *policy.Document) (reason, detail string) {
	if n.Verdict != verified {
		return n.Reason, n.Detail
	}
	role := policy.Worker
	if n.controlPlane {
		role = policy.ControlPlane
	}
	switch g := n.Claims.Grant; {
	case g != nil && g.Role != role:
		return reasonRole, fmt.Sprintf("the inventory lists it as %s, and it is %s", g.Role, role)
	case g != nil:
		return "", "" // under its name, or it would be another node's
	case n.controlPlane:
		return reasonNotListed, "it is of the control plane, and the inventory does not list its TPM"
	case !d.FirstComeWorkers:
		return reasonNotListed, "the inventory does not list its TPM, and first_come lets no unlisted workers in"
	case d.Reserved(n.Name):
		return reasonOtherNode, "the inventory gives its name to another TPM"
	}
	return "", ""
}

func (a *applied) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, n := range a.FallOut {
		fmt.Fprintf(tw, "%s\twould not be let in again\t%s\t%s\n", n.Name, n.Reason, n.Detail)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	text := "policy %s is the cluster's now: %d of %d nodes fulfil it\n"
	if !a.Applied {
		text = "nothing was changed: by policy %s, %d of %d nodes would be let in again\nwhat to do: let the policy accept what they run, or give --force\n"
	}
	_, err := fmt.Fprintf(w, text, a.Policy, a.Nodes-len(a.FallOut), a.Nodes)
	return err
}
