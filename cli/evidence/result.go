// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/image"
	"github.com/constellation-os/constellation/measurements"
)

// Verdicts.
const (
	accepted = "accepted"
	refused  = "refused"
)

// result is what verify found, as JSON.
type result struct {
	Verdict string `json:"verdict"`
	// Policy is the SHA-256 of the policy that was judged by.
	Policy measurements.Digest `json:"policy"`
	// Claims are there if the evidence was accepted.
	Claims *attestation.Claims `json:"claims,omitempty"`
	// The others are there if it was refused.
	Reason     string                   `json:"reason,omitempty"`
	Detail     string                   `json:"detail,omitempty"`
	Next       string                   `json:"next,omitempty"`
	Comparison *measurements.Comparison `json:"comparison,omitempty"`

	evidenceFile, policyFile string
}

// judge makes the verdict out of a refusal, nil for acceptance.
func (r *result) judge(refusal error) {
	if refusal == nil {
		r.Verdict = accepted
		return
	}
	r.Verdict, r.Claims = refused, nil
	reason := attestation.ReasonOf(refusal)
	r.Reason, r.Detail = reason.String(), detail(refusal)
	r.Comparison = tpm.Explanation(refusal)
	r.Next = r.next(reason)
}

// detail is a refusal without its reason, which is shown on its own.
func detail(refusal error) string {
	var e *attestation.Error
	if errors.As(refusal, &e) {
		return e.Err.Error()
	}
	return refusal.Error()
}

// next says what to do about a refusal.
func (r *result) next(reason attestation.Reason) string {
	switch reason {
	case attestation.ReasonChallengeMissing:
		return fmt.Sprintf(`all else is right. Challenge the machine, and verify again with its answer:
constellation evidence challenge %s --nonce NONCE --secret secret.json > challenge
constellation evidence respond challenge --nonce NONCE > response     (on the machine)
constellation evidence verify %[1]s --policy %s --nonce NONCE --secret secret.json --response response`, r.evidenceFile, r.policyFile)
	case attestation.ReasonChallenge:
		return "challenge the machine again for this evidence and this nonce; if it fails again, its evidence is not by the TPM that it names"
	case attestation.ReasonBinding:
		return "collect evidence on the machine for this very nonce; evidence for another is old, or somebody else's"
	case attestation.ReasonIdentity:
		return "if this TPM is to be trusted, list it in the policy's inventory, or name the authority that certified it (constellation policy create --help)"
	case attestation.ReasonMeasurements:
		if r.Comparison == nil {
			return "name the predictions of the accepted images with --measurements, to see which event differs"
		}
		return "see what differs below"
	case attestation.ReasonExpired:
		return "boot an image that is still accepted, or prolong the acceptance in the policy (constellation policy check names its dates)"
	case attestation.ReasonClock:
		return "switch the machine off and on again, instead of waking it from sleep"
	case attestation.ReasonTechnology, attestation.ReasonVersion:
		return "collect the evidence with the same version of this program"
	}
	return "collect the evidence again; if it is refused again, the machine or somebody on the way changes it: do not trust it"
}

// write prints the result, and returns command.ErrMismatch for a refusal.
func (r *result) write(cmd *cobra.Command, events bool) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	if format == command.JSON {
		err = command.WriteJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.writeText(cmd.OutOrStdout(), events)
	}
	if err == nil && r.Verdict != accepted {
		err = command.ErrMismatch
	}
	return err
}

func (r *result) writeText(w io.Writer, events bool) error {
	if r.Verdict == accepted {
		fmt.Fprintln(w, accepted)
		return WriteClaims(w, r.Claims)
	}
	fmt.Fprintf(w, "refused: %s\n  %s\n", r.Reason, r.Detail)
	fmt.Fprintf(w, "  what to do: %s\n", strings.ReplaceAll(r.Next, "\n", "\n    "))
	if r.Comparison == nil {
		return nil
	}
	fmt.Fprintln(w)
	return image.WriteComparison(w, r.Comparison, events)
}

// WriteClaims prints what was proven, for people, indented.
func WriteClaims(w io.Writer, c *attestation.Claims) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("technology", "%s", c.Technology)
	line("booted", "%s", c.Image)
	for _, id := range c.Identities {
		line("identity", "%s %s", id.Kind, id.Value)
	}
	if c.Grant != nil {
		line("inventory", "%s, %s", c.Grant.Name, c.Grant.Role)
	} else {
		line("inventory", "not listed: an authority vouches for it, it has no name and no role")
	}
	if c.Boot != nil {
		line("counters", "%d boots, %d wake-ups, %d ms", c.Boot.Resets, c.Boot.Restarts, c.Boot.Clock)
	}
	line("debugging", "%s", c.Debug)
	line("proven", "%s", join(c.Properties))
	line("not proven", "%s", join(c.Properties.Missing()))
	return tw.Flush()
}

func join(ps []attestation.Property) string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}
