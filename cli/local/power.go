// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/services/provider"
)

func startCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "start MACHINE",
		Short: "Switch a machine on",
		Long: `start switches a machine on. A node comes back by itself, if a control plane is there; if
none is, start says how the cluster comes back: see constellation recover.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: machineNames(folder),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			client := supervisor.NewClient(dir)
			before, err := client.Status(cmd.Context())
			if err == nil {
				err = client.Start(cmd.Context(), args[0])
			}
			if err != nil {
				return notRunning(dir, err)
			}
			fmt.Fprint(cmd.ErrOrStderr(), recoveryHint(dir, before, args[0]))
			return nil
		},
	}
}

func stopCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "stop MACHINE",
		Short: "Cut a machine's power",
		Long: `stop ends a machine as a power cut does: its system is not asked. Its disk, TPM and
console stay; start switches it on again.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: machineNames(folder),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			return notRunning(dir, supervisor.NewClient(dir).Stop(cmd.Context(), args[0]))
		},
	}
}

// recoveryHint says how to bring a cluster back, if the machine that is started now is of a
// control plane of which nothing was left.
func recoveryHint(dir supervisor.Dir, s *supervisor.Status, started string) string {
	if !slices.ContainsFunc(s.Machines, func(m supervisor.MachineStatus) bool {
		return m.Name == started && m.Role == provider.ControlPlane
	}) {
		return ""
	}
	for _, m := range s.Machines {
		if m.Role == provider.ControlPlane && m.State == supervisor.StateRunning && m.Name != started {
			return ""
		}
	}
	return fmt.Sprintf("no other control plane runs, so that nobody gives %s the key of its disk\nwhat to do: constellation recover --dir %s (or constellation local up --dir %[2]s, which does it too)\n", started, dir)
}
