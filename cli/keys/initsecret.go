// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/keys/initsecret"
)

// initSecret is what may be known of an init secret, as JSON.
type initSecret struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

func initSecretCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init-secret [FILE]",
		Short: "Make the one-time secret that shows who may initialise a machine",
		Long: `init-secret makes a random secret in FILE (` + initsecret.DefaultFile + ` by default)
with mode 0600, and prints its SHA-256. A file that is there is never overwritten.

Machines are told the SHA-256 by their surroundings (init_secret_sha256 in an
inventory) and let themselves be initialised only by whoever sends the secret. That
is on the attested channel, after the machine was verified. Once the cluster is
initialised the secret is of no more use.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown := initsecret.DefaultFile
			if len(args) > 0 {
				shown = args[0]
			}
			hash, err := initsecret.Create(command.FromCaller(shown))
			if err != nil {
				return err
			}
			s := initSecret{File: shown, SHA256: fmt.Sprintf("%x", hash)}
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			if format == command.JSON {
				return command.WriteJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "init secret made\nfile    %s\nSHA-256 %s\n", s.File, s.SHA256)
			return err
		},
	}
}
