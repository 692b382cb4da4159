// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/predict"
)

// Environment variables that say where the image and the firmware are. Bazel sets
// them for the command that it runs.
const (
	imageEnv    = "CONSTELLATION_IMAGE"
	firmwareEnv = "CONSTELLATION_FIRMWARE"
)

// Names of the files in an image's folder and in a firmware's folder.
const (
	diskFile         = "disk.raw"
	measurementsFile = "measurements.json"
	firmwareCodeFile = "OVMF_CODE_4M.fd"
	firmwareVarsFile = "OVMF_VARS_4M.fd"
)

// bootFlags are the command's flags.
type bootFlags struct {
	image        string
	firmwareCode string
	firmwareVars string
	cpus, memory int
	timeout      time.Duration
	console      bool
	events       bool
	keep         string
}

func bootCommand() *cobra.Command {
	var f bootFlags
	cmd := &cobra.Command{
		Use:   "boot",
		Short: "Boot an image in a virtual machine and compare what it measures",
		Long: `boot starts a virtual machine (QEMU, with OVMF as firmware and a TPM by swtpm) from
an image, shows how far it is, takes the measurements that the machine reports, and
compares them with the image's measurements.json. The image is never written to and
nothing of the machine is left behind, also after Ctrl-C.

PCR 1 also holds the ACPI tables that QEMU makes: they are asked of QEMU, without
booting, and so predicted too.

KVM is used if a machine really runs with it; without it a boot takes a minute or so.

Exit codes: 0 match, 1 mismatch, 2 the machine did not boot or an input is broken.`,
		Example: `  constellation image boot --image bazel-bin/image/qemu
  constellation image boot --console --keep /tmp/boot
  constellation image boot --output json | jq .comparison.findings`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, path := range map[string]*string{
				"image": &f.image, "firmware-code": &f.firmwareCode, "firmware-vars": &f.firmwareVars, "keep": &f.keep,
			} {
				if cmd.Flags().Changed(name) {
					*path = command.FromCaller(*path)
				}
			}
			return runBoot(cmd, f)
		},
	}
	cmd.Flags().StringVar(&f.image, "image", os.Getenv(imageEnv), "folder with "+diskFile+" and "+measurementsFile+" (default: $"+imageEnv+")")
	cmd.Flags().StringVar(&f.firmwareCode, "firmware-code", defaultFirmware(firmwareCodeFile, defaultFirmwareCode), "OVMF code image")
	cmd.Flags().StringVar(&f.firmwareVars, "firmware-vars", defaultFirmware(firmwareVarsFile, defaultFirmwareVars), "OVMF variable store; the machine gets a copy")
	cmd.Flags().IntVar(&f.cpus, "cpus", 0, "processors (default: as predicted)")
	cmd.Flags().IntVar(&f.memory, "memory", 0, "memory in MiB (default: as predicted)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long the boot may take")
	cmd.Flags().BoolVar(&f.console, "console", false, "show the machine's serial console")
	cmd.Flags().BoolVar(&f.events, "events", false, "also list every event")
	cmd.Flags().StringVar(&f.keep, "keep", "", "folder to keep observed.json and console.log in")
	return cmd
}

func defaultFirmware(name, installed string) string {
	if dir := os.Getenv(firmwareEnv); dir != "" {
		return filepath.Join(dir, name)
	}
	return installed
}

// bootResult is the command's result as JSON.
type bootResult struct {
	Machine      measurements.Machine     `json:"machine"`
	Acceleration machine.Acceleration     `json:"acceleration"`
	Stages       []bootStage              `json:"stages"`
	Timings      map[string]float64       `json:"timings,omitempty"`
	Comparison   *measurements.Comparison `json:"comparison"`
}

// bootStage is when a part of the boot began, in seconds since power-on.
type bootStage struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// stageReported is the last stage: the machine's report has arrived.
const stageReported = "measurements reported"

func runBoot(cmd *cobra.Command, f bootFlags) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	published, config, err := f.prepare()
	if err != nil {
		return err
	}
	ctx, log := cmd.Context(), cmd.ErrOrStderr()
	p, err := f.complete(ctx, log, published, config)
	if err != nil {
		return err
	}
	keeper, err := openKeep(f.keep)
	if err != nil {
		return err
	}
	defer keeper.close()
	config.Console = keeper.console(f.console, log)

	result := &bootResult{Machine: config.Shape}
	observed, err := f.boot(ctx, log, config, result, keeper)
	if err != nil {
		return err
	}
	result.Timings = observed.Timings
	if result.Comparison, err = measurements.Compare(p, observed); err != nil {
		return fmt.Errorf("the machine's report: %w", err)
	}
	if format == command.JSON {
		err = command.WriteJSON(cmd.OutOrStdout(), result)
	} else {
		err = WriteComparison(cmd.OutOrStdout(), result.Comparison, f.events)
	}
	if err == nil && !result.Comparison.Match {
		err = command.ErrMismatch
	}
	return err
}

// prepare reads the published measurements and describes the machine.
func (f bootFlags) prepare() (*measurements.Prediction, machine.Config, error) {
	if f.image == "" {
		return nil, machine.Config{}, fmt.Errorf("name the image's folder with --image (or $%s): tools/bazel build //image:qemu makes bazel-bin/image/qemu", imageEnv)
	}
	raw, err := command.ReadFile(filepath.Join(f.image, measurementsFile), measurements.MaxPredictionSize)
	if err != nil {
		return nil, machine.Config{}, fmt.Errorf("read what the image must measure: %w", err)
	}
	p, err := measurements.ParsePrediction(raw)
	if err != nil {
		return nil, machine.Config{}, fmt.Errorf("%s: %w", measurementsFile, err)
	}
	shape := measurements.QEMU()
	if p.Machine != nil {
		shape = *p.Machine
	}
	if f.cpus != 0 {
		shape.CPUs = f.cpus
	}
	if f.memory != 0 {
		shape.MemoryMiB = f.memory
	}
	config := machine.Config{
		Name:     "image-boot",
		Disk:     filepath.Join(f.image, diskFile),
		Firmware: machine.Firmware{Code: f.firmwareCode, Vars: f.firmwareVars},
		Shape:    shape,
	}
	if err := machine.Preflight(config); err != nil {
		return nil, machine.Config{}, err
	}
	return p, config, nil
}

// complete adds to the published measurements what depends on this computer's
// QEMU: the ACPI tables. The disk at hand is predicted anew for that; should that
// give anything else than what was published, the published stands alone, so that
// a changed disk is never its own reference.
func (f bootFlags) complete(ctx context.Context, log io.Writer, published *measurements.Prediction, config machine.Config) (*measurements.Prediction, error) {
	files, err := machine.ReadFirmwareConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	full, err := predictDisk(config, files)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	switch {
	case err != nil:
		fmt.Fprintf(log, "note: this disk cannot be predicted here, so the ACPI tables are not compared: %v\n", err)
		return published, nil
	case !extends(full, published):
		fmt.Fprintln(log, "note: disk or firmware are not what was published, so the ACPI tables are not compared")
		return published, nil
	}
	return full, nil
}

func predictDisk(config machine.Config, files map[string][]byte) (*measurements.Prediction, error) {
	return predict.FromFiles(predict.Files{
		Disk: config.Disk, FirmwareCode: config.Firmware.Code, FirmwareVariables: config.Firmware.Vars, Shape: &config.Shape,
		AskFirmwareConfig: func(measurements.Machine) (map[string][]byte, error) { return files, nil },
	})
}

// extends says whether a prediction equals the published one in every PCR that
// this one covers, other than the machine's own.
func extends(full, published *measurements.Prediction) bool {
	const machinePCR = 1
	if !slices.Equal(full.Enforced, published.Enforced) {
		return false
	}
	for a, pcrs := range published.PCRs {
		for pcr, value := range pcrs {
			if pcr != machinePCR && pcr != measurements.KernelPCR && !reflect.DeepEqual(full.PCRs[a][pcr], value) {
				return false
			}
		}
	}
	return true
}

// boot runs the machine until it has reported.
func (f bootFlags) boot(ctx context.Context, log io.Writer, config machine.Config, result *bootResult, keeper *keep) (*measurements.Observed, error) {
	note := func(stage string, at time.Duration) {
		result.Stages = append(result.Stages, bootStage{stage, at.Seconds()})
		fmt.Fprintf(log, "%6.1f s  %s\n", at.Seconds(), stage)
	}
	options := machine.BootOptions{Deadline: f.timeout, Progress: func(p machine.Progress) {
		if p.Stage == machine.StageFirmware {
			switch {
			case p.Attempt > 1:
				fmt.Fprintf(log, "the machine was stuck: attempt %d\n", p.Attempt)
			case p.Acceleration == machine.AccelerationTCG:
				fmt.Fprintln(log, "there is no usable KVM here: the processors are emulated, which takes a minute or so")
			}
			result.Stages = nil
		}
		note(string(p.Stage), p.Elapsed)
	}}
	fmt.Fprintf(log, "machine: %d processors, %d MiB of memory\n", config.Shape.CPUs, config.Shape.MemoryMiB)
	var line []byte
	m, err := machine.Boot(ctx, config, options, func(ctx context.Context, m *machine.Machine) (err error) {
		line, err = m.Line(ctx, machine.MeasurementsPort)
		return err
	})
	if err != nil {
		return nil, err
	}
	note(stageReported, time.Since(m.Started()))
	result.Acceleration = m.Acceleration()
	m.Stop()
	if err := keeper.observed(line); err != nil {
		return nil, err
	}
	observed, err := measurements.ParseObserved(line)
	if err != nil {
		return nil, fmt.Errorf("the machine's report: %w", err)
	}
	return observed, nil
}

// keep is the folder in which a boot's traces are kept, if any.
type keep struct {
	dir string
	log *os.File
}

func openKeep(dir string) (*keep, error) {
	if dir == "" {
		return &keep{}, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the folder to keep the boot's traces in: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "console.log"))
	if err != nil {
		return nil, fmt.Errorf("keep the console: %w", err)
	}
	return &keep{dir: dir, log: log}, nil
}

func (k *keep) console(show bool, to io.Writer) io.Writer {
	var writers []io.Writer
	if show {
		writers = append(writers, machine.NewLineWriter(to))
	}
	if k.log != nil {
		writers = append(writers, k.log)
	}
	return io.MultiWriter(writers...)
}

func (k *keep) observed(line []byte) error {
	if k.dir == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(k.dir, "observed.json"), append(line, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep the machine's report: %w", err)
	}
	return nil
}

func (k *keep) close() {
	if k.log != nil {
		k.log.Close()
	}
}
