// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// registers says what is measured into each PCR (docs/measurements.md).
var registers = [measurements.PCRCount]string{
	0: "firmware", 1: "the machine's shape", 2: "option ROMs", 3: "option ROMs' settings",
	4: "UKI and kernel", 5: "partition table", 6: "the manufacturer's", 7: "Secure Boot",
	8: "boot loader's command line", 9: "command line, initrd", 10: "kernel's integrity subsystem", 11: "sections of the UKI",
	12: "credentials, add-ons, other command lines", 13: "system extensions", 14: "boot loader's keys", 15: "cluster",
}

// explanation is the result of explain as JSON.
type explanation struct {
	Digest       measurements.Digest      `json:"digest"`
	Technologies []attestation.Technology `json:"technologies"`
	Inventory    []device                 `json:"inventory"`
	Authorities  []authority              `json:"authorities"`
	// FirstCome are the roles that a device may have which the inventory does not list.
	FirstCome []string   `json:"first_come"`
	Images    []bootable `json:"images"`
}

type device struct {
	Name     string                   `json:"name"`
	Role     string                   `json:"role"`
	Kind     attestation.IdentityKind `json:"kind"`
	Identity measurements.Digest      `json:"identity"`
}

type authority struct {
	Subject string    `json:"subject"`
	From    time.Time `json:"from"`
	Until   time.Time `json:"until"`
}

// bootable is an accepted image.
type bootable struct {
	Name string `json:"name"`
	// Until is zero if the acceptance never ends.
	Until time.Time `json:"until,omitzero"`
	// Values counts what is accepted in each named register.
	Values map[int]int `json:"values"`
	// Ignored are the registers that are not looked at.
	Ignored []int `json:"ignored"`
}

func explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain FILE",
		Short: "Say in plain words whom a policy lets in",
		Long: `explain says who is let in by what: which TPMs, vouched for by whom, under which name
and role; which images, until when; and what is not looked at.

The policy must load. "constellation policy check" says what is wrong with one that
does not.`,
		Example: `  constellation policy explain policy.json
  constellation policy explain policy.json --output json | jq '.images[].until'`,
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
			d, err := policy.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w\nsee all that is wrong with it: constellation policy check %[1]s", args[0], err)
			}
			e := explain(d)
			if format == command.JSON {
				return command.WriteJSON(cmd.OutOrStdout(), e)
			}
			return e.write(cmd.OutOrStdout(), time.Now())
		},
	}
}

func explain(d *policy.Document) *explanation {
	e := &explanation{Digest: d.Digest, Technologies: d.Technologies, Inventory: []device{}, Authorities: []authority{}, FirstCome: []string{}}
	if d.FirstComeWorkers {
		e.FirstCome = []string{policy.Worker}
	}
	for _, i := range d.Inventory() {
		e.Inventory = append(e.Inventory, device{i.Name, i.Role, i.Kind, i.Value})
	}
	for _, c := range d.Authorities {
		e.Authorities = append(e.Authorities, authority{c.Subject.String(), c.NotBefore.UTC(), c.NotAfter.UTC()})
	}
	for i := range d.Measurements.Accepted {
		e.Images = append(e.Images, explainSet(&d.Measurements.Accepted[i]))
	}
	return e
}

func explainSet(s *accepted.Set) bootable {
	b := bootable{Name: s.Name, Until: policy.Until(s), Values: map[int]int{}, Ignored: []int{}}
	for pcr := range measurements.PCRCount {
		if n := len(s.PCRs[pcr]); n > 0 {
			b.Values[pcr] = n
		} else {
			b.Ignored = append(b.Ignored, pcr)
		}
	}
	return b
}

func (e *explanation) write(w io.Writer, now time.Time) error {
	fmt.Fprintf(w, "policy %s\nlets a machine in if all of this holds:\n\n", e.Digest)
	fmt.Fprintf(w, "1. It proves itself by technology %s, freshly, with a key that cannot leave the device.\n\n", names(e.Technologies))
	fmt.Fprintln(w, "2. Its TPM is one of these:")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range e.Inventory {
		fmt.Fprintf(tw, "   %s\t%s\tendorsement key %s\n", d.Name, d.Role, d.Identity)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	unlisted := "it has no name and no role, unless it is listed"
	if len(e.FirstCome) > 0 {
		unlisted = "unless it is listed, it can be a worker, under any name that is free"
	}
	for _, a := range e.Authorities {
		fmt.Fprintf(w, "   any that %q certified (valid until %s%s): %s\n", a.Subject, a.Until.Format(time.DateOnly), past(a.Until, now), unlisted)
	}
	fmt.Fprintln(w, "\n3. It booted one of these images, exactly, in all the registers named:")
	for _, b := range e.Images {
		if err := b.write(w, now); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, "\nNot shown by a TPM: that the host cannot read the machine's memory.")
	return err
}

func (b *bootable) write(w io.Writer, now time.Time) error {
	until := "for ever"
	if !b.Until.IsZero() {
		until = "until " + b.Until.UTC().Format(time.RFC3339) + past(b.Until, now)
	}
	fmt.Fprintf(w, "   %s, %s\n", b.Name, until)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for pcr := range measurements.PCRCount {
		switch n := b.Values[pcr]; {
		case n == 1:
			fmt.Fprintf(tw, "     PCR %d\t%s\n", pcr, registers[pcr])
		case n > 1:
			fmt.Fprintf(tw, "     PCR %d\t%s: one of %d values\n", pcr, registers[pcr], n)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(b.Ignored) == 0 {
		return nil
	}
	var names []string
	for _, pcr := range b.Ignored {
		names = append(names, fmt.Sprintf("%d (%s)", pcr, registers[pcr]))
	}
	_, err := fmt.Fprintf(w, "     not looked at: PCR %s\n", strings.Join(names, ", "))
	return err
}

func names(technologies []attestation.Technology) string {
	out := make([]string, len(technologies))
	for i, t := range technologies {
		out[i] = string(t)
	}
	return strings.Join(out, " or ")
}

// past marks what is over.
func past(until, now time.Time) string {
	if now.After(until) {
		return ", which is past: nobody is let in by it"
	}
	return ""
}
