// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/supervisor"
)

func downCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End a local cluster and remove its folder",
		Long: `down ends the cluster's machines and removes its folder with everything in it: the
machines' disks, and the keys. Neither a process nor a file is left.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := folder()
			p, err := dir.Presence()
			if err != nil {
				return err
			}
			if p == supervisor.Absent {
				fmt.Fprintf(cmd.ErrOrStderr(), "there is no local cluster in %s: nothing to do\n", dir)
				return nil
			}
			if err := takeDown(cmd.Context(), dir); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "the local cluster in %s is gone\n", dir)
			return nil
		},
	}
}

// takeDown ends what runs and removes the folder.
func takeDown(ctx context.Context, dir supervisor.Dir) error {
	if err := stopSupervisor(ctx, dir); err != nil {
		return err
	}
	return dir.Remove()
}

func statusCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the machines of a local cluster",
		Long: `status shows what runs of a local cluster and where it is reached. How a node is, is the
node's to say: constellation status asks it.

Exit codes: 0 all machines run, 1 some do not, 2 there is no cluster, or it does not run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := folder()
			s, err := supervisor.NewClient(dir).Status(cmd.Context())
			if err != nil {
				return notRunning(dir, err)
			}
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), s)
			} else {
				err = writeStatus(cmd.OutOrStdout(), s)
			}
			for _, m := range s.Machines {
				if m.State != supervisor.StateRunning && err == nil {
					err = command.ErrMismatch
				}
			}
			return err
		},
	}
}

func writeStatus(w io.Writer, s *supervisor.Status) error {
	fmt.Fprintf(w, "cluster %s, process %d, API server at 127.0.0.1:%d\n", s.Name, s.Process, s.APIPort)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "  MACHINE\tROLE\tADDRESS\tBOOTSTRAPPER\tSTATE\tSINCE\t")
	for _, m := range s.Machines {
		state := string(m.State)
		if m.Stage != "" {
			state += ": " + m.Stage
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t127.0.0.1:%d\t%s\t%s\t\n", m.Name, m.Role, m.Address, m.Port, state, time.Since(m.Since).Round(time.Second))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, m := range s.Machines {
		if m.Reason != "" {
			fmt.Fprintf(w, "%s: %s\n", m.Name, m.Reason)
		}
	}
	return nil
}

func logsCommand(folder func() supervisor.Dir) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs MACHINE",
		Short: "Show what a machine printed on its console",
		Long: `logs shows what a machine printed on its serial console, of all its boots, the last 8 MiB
at least. Control characters are left out. It works whether the machine runs or not.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: machineNames(folder),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			spec, err := dir.Spec()
			if err != nil {
				return notRunning(dir, supervisor.ErrNotRunning)
			}
			if !spec.Has(args[0]) {
				return fmt.Errorf("the cluster has no machine %q: see constellation local status", args[0])
			}
			return showLog(cmd, dir, args[0], follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, until interrupted")
	return cmd
}

// showLog shows the files of a console, and what is appended.
func showLog(cmd *cobra.Command, dir supervisor.Dir, name string, follow bool) error {
	out := machine.NewTextWriter(cmd.OutOrStdout())
	if err := copyFile(out, dir.OlderConsoleFile(name)); err != nil {
		return err
	}
	f, err := os.Open(dir.ConsoleFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has not been started
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.Copy(out, f); err != nil || !follow {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(poll):
		}
	}
}

func copyFile(to io.Writer, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

func consoleCommand(folder func() supervisor.Dir) *cobra.Command {
	return &cobra.Command{
		Use:   "console MACHINE",
		Short: "Connect to a machine's console",
		Long: `console shows what a machine prints on its serial console from now on, and sends it what
is typed, a line at a time. Images have nothing that reads it, but those of the flavour
qemu-debug. It ends with Ctrl-C, or Ctrl-D.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: machineNames(folder),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := folder()
			conn, err := supervisor.NewClient(dir).Console(cmd.Context(), args[0])
			if err != nil {
				return notRunning(dir, err)
			}
			defer conn.Close()
			stop := context.AfterFunc(cmd.Context(), func() { conn.Close() })
			defer stop()
			go func() {
				_, _ = io.Copy(conn, cmd.InOrStdin())
				conn.Close()
			}()
			_, _ = io.Copy(machine.NewTextWriter(cmd.OutOrStdout()), conn)
			return nil
		},
	}
}

// machineNames completes the name of a machine.
func machineNames(folder func() supervisor.Dir) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		spec, err := folder().Spec()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, m := range spec.Machines {
			names = append(names, m.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
