// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/supervisor"
)

func captureCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "capture FILE",
		Short: "Record what machines send to each other",
		Long: `capture writes every frame on the cluster's network to FILE, from now on until it is
interrupted: those that machines send to each other and to their gateway, and what comes
from there. FILE is in the format pcap, which tcpdump and Wireshark read; it must not
exist; - is standard output.

What pods on different nodes say to each other is not in it but as WireGuard's packets.`,
		Example: `  constellation local capture - | tcpdump -r - -n udp`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			if _, err := supervisor.NewClient(dir).Status(cmd.Context()); err != nil {
				return notRunning(dir, err)
			}
			if args[0] == "-" {
				return capture(cmd, dir, cmd.OutOrStdout())
			}
			f, err := os.OpenFile(command.FromCaller(args[0]), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			return errors.Join(capture(cmd, dir, f), f.Close())
		},
	}
}

func capture(cmd *cobra.Command, dir supervisor.Dir, to io.Writer) error {
	return supervisor.NewClient(dir).Capture(cmd.Context(), to, func() {
		fmt.Fprintln(cmd.ErrOrStderr(), "capturing; Ctrl-C ends it")
	})
}
