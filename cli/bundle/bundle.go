// SPDX-License-Identifier: Apache-2.0

// Package bundle is the command "constellation bundle": is a folder the component
// set that it claims to be?
package bundle

import (
	"github.com/spf13/cobra"
)

// Command makes "bundle" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Check bundles of Kubernetes' components",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(verifyCommand())
	return cmd
}
