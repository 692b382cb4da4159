// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
)

const defaultWithin = 30 // days

// review is the result of check as JSON.
type review struct {
	// Sound says that there are no findings.
	Sound bool `json:"sound"`
	// Loads says that verifiers accept the document.
	Loads    bool             `json:"loads"`
	At       time.Time        `json:"at"`
	Findings []policy.Finding `json:"findings"`
}

func checkCommand() *cobra.Command {
	var at string
	var days int
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Name all that is missing, weak, expired or about to expire in a policy",
		Long: `check names everything that the owner of a policy should change, all of it at once:

  missing    a part without which the policy would protect nothing; it does not load
  invalid    a part that means nothing; it does not load
  weak       a part that lets in more than it should: values that never expire, an
             image that measured nothing, an authority with a short key
  expired    a part that lets nobody in any more
  expiring   one that soon will not: within --within days

Exit codes: 0 sound, 1 something was found, 2 the file is no policy of this version.`,
		Example: `  constellation policy check policy.json
  constellation policy check policy.json --within 0          # only what is wrong today
  constellation policy check policy.json --at 2027-12-31     # what will be wrong then
  constellation policy check policy.json --output json | jq '.findings[] | select(.kind == "expiring")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			r, err := runCheck(cmd, args[0], at, days)
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.write(cmd.OutOrStdout())
			}
			if err == nil && !r.Sound {
				err = command.ErrMismatch
			}
			return err
		},
	}
	cmd.Flags().IntVar(&days, "within", defaultWithin, "days ahead in which what expires is found")
	cmd.Flags().StringVar(&at, "at", "", "day or moment to check for (default: now)")
	return cmd
}

func runCheck(cmd *cobra.Command, path, at string, days int) (*review, error) {
	r := &review{At: time.Now().UTC().Truncate(time.Second)}
	if at != "" {
		var err error
		if r.At, err = parseDate(at); err != nil {
			return nil, fmt.Errorf("--at: %w", err)
		}
	}
	if days < 0 || days > 100*365 {
		return nil, fmt.Errorf("--within %d: want 0 or more days, at most a hundred years", days)
	}
	data, err := command.ReadInput(cmd, path, policy.MaxSize)
	if err != nil {
		return nil, err
	}
	if r.Findings, err = policy.Review(data, r.At, time.Duration(days)*24*time.Hour); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	_, err = policy.Parse(data)
	r.Loads = err == nil
	r.Sound = len(r.Findings) == 0
	if r.Findings == nil {
		r.Findings = []policy.Finding{}
	}
	return r, nil
}

func (r *review) write(w io.Writer) error {
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %s\n  %s\n  what to do: %s\n\n", f.Kind, f.Where, f.What, f.Advice)
	}
	verdict := "the policy is sound"
	switch {
	case !r.Loads:
		verdict = "the policy does not load: no machine can be judged by it"
	case !r.Sound:
		verdict = "the policy loads, and should be changed"
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}
