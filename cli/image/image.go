// SPDX-License-Identifier: Apache-2.0

// Package image is the command "constellation image": what will an image
// measure, and did a machine measure it.
package image

import "github.com/spf13/cobra"

// Command makes "image" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Predict, compare and boot operating system images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(predictCommand(), compareCommand(), bootCommand())
	return cmd
}
