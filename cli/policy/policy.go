// SPDX-License-Identifier: Apache-2.0

// Package policy is the command "constellation policy": make, check and explain the
// document that says which machines are let in.
package policy

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// DefaultFile is where a cluster's policy is written, and looked for.
const DefaultFile = "constellation-policy.json"

// Command makes "policy" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Make, check, explain and apply the policy that machines are judged by",
		Long: `policy works on the one document that says who is let in: what may have been booted,
who must vouch for a machine's TPM, and what each known machine is called and may be.

What a policy leaves out never means "anything goes": it does not load, and check
names all that is missing.`,
		Example: `  constellation policy create policy.json --measurements measurements.json --not-after 2027-06-30 \
      --inventory machines.txt
  constellation policy check policy.json
  constellation policy explain policy.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(createCommand(), checkCommand(), explainCommand())
	return cmd
}

// parseDate reads a day, which lasts until its end in UTC, or a moment.
func parseDate(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a day as 2027-06-30 nor a moment as 2027-06-30T12:00:00Z", text)
	}
	return moment.UTC(), nil
}
