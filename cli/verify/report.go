// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/cli/image"
	"github.com/constellation-os/constellation/measurements"
)

// Verdicts.
const (
	verified = "verified"
	refused  = "refused"
	noAnswer = "no-answer"
)

// report is what verify found, as JSON.
type report struct {
	// Verdict is verified if all nodes are, else refused.
	Verdict string `json:"verdict"`
	// Cluster is the identity that the nodes had to have, Policy the SHA-256 of the
	// policy that was judged by.
	Cluster measurements.Digest `json:"cluster_id"`
	Policy  measurements.Digest `json:"policy"`
	Nodes   []*result           `json:"nodes"`
	// Unseen are the machines of the policy's inventory that none of the nodes is.
	Unseen []string `json:"unseen,omitempty"`
}

// result is what one node proved.
type result struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint,omitempty"`
	Verdict  string `json:"verdict"`
	// Claims are there if it is verified, and Image if one of the given predictions is
	// of what it booted.
	Claims *attestation.Claims `json:"claims,omitempty"`
	Image  *measurements.Image `json:"image,omitempty"`
	// The others are there if it is not.
	Reason     string                   `json:"reason,omitempty"`
	Detail     string                   `json:"detail,omitempty"`
	Next       string                   `json:"next,omitempty"`
	Comparison *measurements.Comparison `json:"comparison,omitempty"`
	// Milliseconds from the first question to the verdict.
	Milliseconds int64 `json:"took_ms"`

	named, controlPlane bool
	err                 error
}

// write prints the report, and returns command.ErrMismatch unless all is verified.
func (r *report) write(cmd *cobra.Command, events bool) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	if format == command.JSON {
		err = command.WriteJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.writeText(cmd.OutOrStdout(), events)
	}
	if err == nil && r.Verdict != verified {
		err = command.ErrMismatch
	}
	return err
}

func (r *report) writeText(w io.Writer, events bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tVERDICT\tREASON\tBOOTED\tTPM\tTIME")
	good := 0
	for _, n := range r.Nodes {
		booted, device, reason := "-", "-", n.Reason
		if n.Verdict == verified {
			good++
			booted, device, reason = n.Claims.Image, short(n.Claims.Identities[0].Value), "-"
		}
		took := time.Duration(n.Milliseconds) * time.Millisecond
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%.2f s\n", n.Name, n.Verdict, reason, booted, device, took.Seconds())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		if err := n.writeText(w, events); err != nil {
			return err
		}
	}
	if len(r.Unseen) > 0 {
		fmt.Fprintf(w, "\nnot seen: %s, which the policy's inventory lists\n", strings.Join(r.Unseen, ", "))
	}
	_, err := fmt.Fprintf(w, "\n%s: %d of %d nodes have proven that they booted an accepted image and belong to cluster %s\n",
		r.Verdict, good, len(r.Nodes), r.Cluster)
	return err
}

func (n *result) writeText(w io.Writer, events bool) error {
	fmt.Fprintf(w, "\n%s", n.Name)
	if n.Endpoint != "" && n.Endpoint != n.Name {
		fmt.Fprintf(w, " at %s", n.Endpoint)
	}
	if n.Verdict == verified {
		fmt.Fprintf(w, ": %s\n", n.Verdict)
		if err := evidence.WriteClaims(w, n.Claims); err != nil {
			return err
		}
		return writeImage(w, n.Image)
	}
	fmt.Fprintf(w, ": %s: %s\n  %s\n  what to do: %s\n", n.Verdict, n.Reason, n.Detail, n.Next)
	if n.Comparison == nil {
		return nil
	}
	fmt.Fprintln(w)
	return image.WriteComparison(w, n.Comparison, events)
}

// writeImage prints what an image is made of.
func writeImage(w io.Writer, i *measurements.Image) error {
	if i == nil || len(i.Artifacts) == 0 {
		return nil
	}
	fmt.Fprintln(w, "  made of")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(i.Artifacts)) {
		fmt.Fprintf(tw, "    %s\t%s\n", name, i.Artifacts[name])
	}
	return tw.Flush()
}

func short(d measurements.Digest) string {
	s := d.String()
	return s[:min(16, len(s))]
}
