// SPDX-License-Identifier: Apache-2.0

// Package local is the command "constellation local": clusters of virtual machines on
// this computer.
//
// "up" does nothing that other commands do not do: it makes a configuration, gets
// measurements, makes keys, starts machines and initialises the first, and says which
// command each step is. What is its own are the machines, which a supervisor (package
// supervisor) keeps running after the command has returned.
package local

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/measurements"
)

// DefaultDir is the folder of a cluster.
const DefaultDir = "constellation-local"

// Options are what tests put in place of real machines. The zero value is real.
type Options struct {
	// Runner runs machines; supervisor.QEMU if nil.
	Runner supervisor.Runner
	// Bundle makes the server of a bundle; that of package bundle if nil.
	Bundle func(folder string) (http.Handler, error)
	// Preflight says what this computer lacks to run so many of such machines, whose files
	// are in a folder of that file system; real if nil.
	Preflight func(c machine.Config, machines int, folder string) error
	// Room says whether more of them have room; real if nil.
	Room func(shape measurements.Machine, machines int, folder string) error
	// ControlPlanes is how many a cluster may have; as many as images can make if zero.
	ControlPlanes int
	// Verifier makes the verifier of nodes; cluster.Trust.Verifier if nil.
	Verifier func(cluster.Trust) (attestation.Verifier, error)
}

// Command makes "local" with its subcommands.
func Command(o Options) *cobra.Command {
	if o.Runner == nil {
		o.Runner = supervisor.QEMU{}
	}
	if o.Bundle == nil {
		o.Bundle = openBundle
	}
	if o.Preflight == nil {
		o.Preflight = preflight
	}
	if o.ControlPlanes == 0 {
		o.ControlPlanes = 1 // no image makes a machine one more of a control plane so far
	}
	if o.Room == nil {
		o.Room = room
	}
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run a cluster of virtual machines on this computer",
		Long: `local runs clusters of virtual machines (QEMU, with OVMF as firmware and a TPM by
swtpm) on this computer, without root rights, Docker, libvirt or KVM.

A cluster is a folder (` + DefaultDir + ` by default) with all that belongs to it: its
configuration, keys and kubeconfig, the machines' disks and TPMs, their consoles. While
it runs one process in the background has it; everything ends with that process.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	dir := cmd.PersistentFlags().String("dir", DefaultDir, "folder of the cluster")
	folder := func() supervisor.Dir { return supervisor.Dir(command.FromCaller(*dir)) }
	cmd.AddCommand(upCommand(folder, o), downCommand(folder), statusCommand(folder), logsCommand(folder),
		consoleCommand(folder), startCommand(folder), stopCommand(folder), removeCommand(folder), captureCommand(folder), superviseCommand(o))
	return cmd
}

// diskNeedMiB is what a machine takes of the cluster's folder at least: components, images
// and a control plane's data on the state disk.
const diskNeedMiB = 1536

// preflight is about one machine, and then about the room for all.
func preflight(c machine.Config, machines int, folder string) error {
	if err := machine.Preflight(c); err != nil {
		return err
	}
	return room(c.Shape, machines, folder)
}

// room says whether so many machines have room on this computer, with files in a folder
// of that file system.
func room(shape measurements.Machine, machines int, folder string) error {
	return errors.Join(machine.CheckMemory(shape, machines), machine.CheckDisk(folder, int64(machines)*diskNeedMiB))
}

func openBundle(folder string) (http.Handler, error) {
	b, err := bundle.Open(folder)
	if err != nil {
		return nil, err
	}
	return b.Handler(), nil
}

// notRunning says what to do about a cluster that is not there or does not run.
func notRunning(dir supervisor.Dir, err error) error {
	if !errors.Is(err, supervisor.ErrNotRunning) {
		return err
	}
	switch p, foreign := dir.Presence(); {
	case foreign != nil:
		return foreign
	case p == supervisor.Absent:
		return fmt.Errorf("there is no local cluster in %s\nwhat to do: make one with \"constellation local up\", or name another folder with --dir", dir)
	}
	return fmt.Errorf("the local cluster in %s is not running\nwhat to do: start it with \"constellation local up\", or remove it with \"constellation local down\"", dir)
}

// superviseCommand is what runs in the background.
func superviseCommand(o Options) *cobra.Command {
	return &cobra.Command{
		Use:   "supervise FOLDER",
		Short: "Run a cluster until it is told to end; \"up\" starts this in the background",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return supervisor.Run(cmd.Context(), supervisor.Dir(args[0]), supervisor.Options{Runner: o.Runner, Bundle: o.Bundle, Log: os.Stderr})
		},
	}
}
