// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
)

// Environment variables that say where the image, the firmware and the bundle are.
// Bazel sets them for the command that it runs.
const (
	imageEnv    = "CONSTELLATION_IMAGE"
	firmwareEnv = "CONSTELLATION_FIRMWARE"
	bundleEnv   = "CONSTELLATION_BUNDLE"
)

// upFlags are the command's flags.
type upFlags struct {
	controlPlanes, workers     int
	name                       string
	image, bundle              string
	firmwareCode, firmwareVars string
	memory, cpus, disk         int
	apiPort                    uint16
	timeout                    time.Duration
}

func upCommand(folder func() supervisor.Dir, o Options) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a local cluster and start it",
		Long: `up makes a cluster of virtual machines on this computer: it verifies the first one, makes it
a Kubernetes cluster, and lets the others join. It is these commands in a row, and says
which one it is at:

  constellation config generate     in the cluster's folder, for a local cluster
  constellation measurements fetch  what the image must measure
  constellation keys generate       the cluster's master secret
  constellation keys init-secret    the one-time secret that shows who is the owner
  constellation init                verify the machine, and only then send it anything

Between them it starts the machines; they run on in the background when it returns. It
ends when every node is ready.

Run it again after a failure, or after this computer was restarted: it continues, and if
no control plane is left it does what "constellation recover" does. Run it with more
--workers or --control-planes, and the machines that are missing are added. Ctrl-C ends
what it has begun, and removes the cluster if it was new.

Exit codes: 0 the cluster is up, 1 a machine was refused, 2 all else.`,
		Example: `  constellation local up
  constellation local up --workers 2
  constellation local up --memory 4096 --api-port 7443
  kubectl --kubeconfig constellation-local/constellation-kubeconfig get nodes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, path := range map[string]*string{
				"image": &f.image, "bundle": &f.bundle, "firmware-code": &f.firmwareCode, "firmware-vars": &f.firmwareVars,
			} {
				if cmd.Flags().Changed(name) {
					*path = command.FromCaller(*path)
				}
			}
			r, err := progress.New(cmd)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(string(folder()))
			if err != nil {
				return err
			}
			u := &up{flags: f, dir: supervisor.Dir(dir), shown: string(folder()), report: r, options: o}
			cmd.Flags().Visit(func(flag *pflag.Flag) {
				if cmd.LocalNonPersistentFlags().Lookup(flag.Name) != nil && flag.Name != "timeout" {
					u.chosen = append(u.chosen, "--"+flag.Name)
				}
			})
			if err := u.run(cmd.Context()); err != nil {
				return cluster.Explain(cmd, r, err)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&f.controlPlanes, controlPlanesFlag, 1, "machines that run the control plane")
	cmd.Flags().IntVar(&f.workers, workersFlag, 0, "machines that run pods only")
	cmd.Flags().StringVar(&f.name, "name", "local", "name of the cluster")
	cmd.Flags().StringVar(&f.image, "image", os.Getenv(imageEnv), "folder with disk.raw and measurements.json (default: $"+imageEnv+")")
	cmd.Flags().StringVar(&f.bundle, "bundle", os.Getenv(bundleEnv), "folder of the bundle of Kubernetes' components (default: $"+bundleEnv+")")
	cmd.Flags().StringVar(&f.firmwareCode, "firmware-code", defaultFirmware("OVMF_CODE_4M.fd"), "OVMF code image")
	cmd.Flags().StringVar(&f.firmwareVars, "firmware-vars", defaultFirmware("OVMF_VARS_4M.fd"), "OVMF variable store; each machine gets a copy")
	cmd.Flags().IntVar(&f.memory, "memory", 3072, "memory of each machine in MiB")
	cmd.Flags().IntVar(&f.cpus, "cpus", 2, "processors of each machine")
	cmd.Flags().IntVar(&f.disk, "disk", 20, "size of each machine's state disk in GiB; it takes what is used of it")
	cmd.Flags().Uint16Var(&f.apiPort, "api-port", supervisor.APIServerPort, "port of this computer at which the API server is reached")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 20*time.Minute, "how long it may take in all")
	return cmd
}

func defaultFirmware(name string) string {
	if dir := os.Getenv(firmwareEnv); dir != "" {
		return filepath.Join(dir, name)
	}
	return filepath.Join("/usr/share/OVMF", name)
}

// up is one run of the command.
type up struct {
	flags   upFlags
	dir     supervisor.Dir
	shown   string // the folder as the user knows it
	report  *progress.Reporter
	options Options

	chosen []string        // flags that say what the cluster is to be
	off    map[string]bool // machines that are switched off, and left out
}

// result is the command's, as JSON.
type result struct {
	Folder     string             `json:"folder"`
	Kubeconfig string             `json:"kubeconfig"`
	Cluster    *supervisor.Status `json:"cluster"`
}

// Causes of the end of a run.
var (
	errTakenDown = errors.New("the cluster was taken down meanwhile")
	errTimeout   = errors.New("it took too long (--timeout)")
)

func (u *up) run(ctx context.Context) error {
	if err := u.flags.check(u.options); err != nil {
		return err
	}
	p, err := u.dir.Presence()
	if err != nil {
		return fmt.Errorf("%w\nwhat to do: name another folder with --dir", err)
	}
	if p == supervisor.Unfinished {
		if err := u.clear(); err != nil {
			return err
		}
	}
	fresh := p != supervisor.Present
	if fresh {
		if err := u.preflight(); err != nil {
			return err
		}
		if err := u.dir.Make(); err != nil {
			return err
		}
	}
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if p, err := u.dir.Presence(); err != nil || fresh != (p != supervisor.Present) {
		return errors.Join(err, fmt.Errorf("%s: another command made or removed this cluster meanwhile\nwhat to do: run the same command again", u.shown))
	}
	began := !u.dir.Running()
	timed, cancel := context.WithTimeoutCause(ctx, u.flags.timeout, errTimeout)
	defer cancel()
	err = u.build(timed, fresh)
	if err != nil && ctx.Err() != nil {
		return errors.Join(err, u.cleanUp(fresh, began))
	}
	return u.explain(err, fresh)
}

// lock keeps other commands from making or starting the same cluster.
func (u *up) lock() (unlock func(), err error) {
	if unlock, err = u.dir.LockCommand(); err != nil {
		return nil, fmt.Errorf("%s: %w\nwhat to do: wait for it, or end the cluster with \"constellation local down\"", u.shown, err)
	}
	return unlock, nil
}

// clear removes what a command left that was killed before anything ran.
func (u *up) clear() error {
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return u.dir.Remove()
}

// build goes through the steps. Each is skipped if it was done before.
func (u *up) build(ctx context.Context, fresh bool) error {
	if fresh {
		if err := u.makeFiles(); err != nil {
			return err
		}
	}
	spec, err := u.dir.Spec()
	if err != nil {
		return err
	}
	var added []supervisor.MachineSpec
	if !fresh {
		if added, err = u.grow(spec); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if len(added) > 0 {
		if err := u.leaveOut(ctx); err != nil {
			return err
		}
	}
	status, err := u.startMachines(ctx, cancel, spec)
	if err != nil {
		return err
	}
	there := false
	if spec.Cluster == nil {
		err = u.initialise(ctx, spec, status)
	} else if err = u.comeBack(ctx, status); errors.Is(err, cluster.ErrMember) {
		there, err = len(added) == 0, nil
	}
	if err != nil {
		return err
	}
	if err := u.admit(ctx, spec); err != nil {
		return err
	}
	if err := u.awaitNodes(ctx, spec); err != nil {
		return err
	}
	if there {
		u.report.Notef("the cluster in %s is up already: nothing to do. Remove it with \"constellation local down\" to make another, or name another folder with --dir", u.shown)
	}
	return u.finish(status)
}

func (u *up) finish(status *supervisor.Status) error {
	kubeconfig := filepath.Join(u.shown, cluster.DefaultKubeconfig)
	return u.report.Result(result{u.shown, kubeconfig, status}, fmt.Sprintf(`The cluster is up: API server at https://127.0.0.1:%d

  kubectl --kubeconfig %s get nodes,pods -A
  constellation local status
  constellation local down     ends it and removes everything
`, status.APIPort, kubeconfig))
}

// cleanUp ends what an interrupted run began.
func (u *up) cleanUp(fresh, began bool) error {
	u.report.Notef("interrupted: ending what was begun")
	ctx := context.Background() // the user's is over
	switch {
	case fresh:
		return takeDown(ctx, u.dir)
	case began:
		return stopSupervisor(ctx, u.dir)
	}
	return nil
}

// explain says what to do about a failure that leaves a cluster behind.
func (u *up) explain(err error, fresh bool) error {
	var refused *refusal
	if err == nil || errors.Is(err, errTakenDown) || errors.As(err, &refused) {
		return err
	}
	p, presenceErr := u.dir.Presence()
	switch {
	case presenceErr == nil && p == supervisor.Unfinished:
		return errors.Join(err, u.dir.Remove())
	case fresh && !u.dir.Running():
		return errors.Join(err, u.dir.Remove())
	}
	return fmt.Errorf("%w\nThe machines run on, and their consoles are shown by \"constellation local logs MACHINE --dir %[2]s\".\nRun the same command again to continue, or \"constellation local down --dir %[2]s\" to remove the cluster", err, u.shown)
}
