// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/pcrlock"
	"github.com/constellation-os/constellation/measurements/predict"
)

// Where Debian's package ovmf installs the firmware without Secure Boot.
const (
	defaultFirmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	defaultFirmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

func predictCommand() *cobra.Command {
	var files predict.Files
	var format string
	var qemu bool
	cmd := &cobra.Command{
		Use:   "predict DISK",
		Short: "Compute what a TPM reports once this disk has booted",
		Long: `predict computes every event that a machine measures into PCR 0 to 15 while it
boots DISK, and the PCR values that follow, for SHA-256 and SHA-384.

Nothing is booted: the values come from the disk, from OVMF's code and variable
store, and from the declared shape of the machine. The ACPI tables that QEMU makes
are part of PCR 1, which PCR 10 follows: with --qemu it is asked for them (nothing
boots), with --fw-cfg they are read from a folder.

Formats: text is a table; json is measurements.json, the input of "image compare";
pcrlock is what systemd-pcrlock reads (one component).`,
		Example: `  constellation image predict disk.raw
  constellation image predict disk.raw --qemu
  constellation image predict disk.raw --format json > measurements.json
  constellation image predict disk.raw --format pcrlock > 500-constellation.pcrlock`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files.Disk = args[0]
			for name, path := range map[string]*string{
				"firmware-code": &files.FirmwareCode, "firmware-vars": &files.FirmwareVariables, "machine": &files.Machine, "fw-cfg": &files.FirmwareConfig,
			} {
				if cmd.Flags().Changed(name) {
					*path = command.FromCaller(*path)
				}
			}
			files.Disk = command.FromCaller(files.Disk)
			if qemu {
				files.AskFirmwareConfig = askQEMU(cmd.Context(), files)
			}
			if format == "" {
				output, err := command.Output(cmd)
				if err != nil {
					return err
				}
				format = string(output)
			}
			return runPredict(cmd.OutOrStdout(), files, format)
		},
	}
	cmd.Flags().StringVar(&files.FirmwareCode, "firmware-code", defaultFirmware(firmwareCodeFile, defaultFirmwareCode), "OVMF code image")
	cmd.Flags().StringVar(&files.FirmwareVariables, "firmware-vars", defaultFirmware(firmwareVarsFile, defaultFirmwareVars), "OVMF variable store, as no firmware has written to it")
	cmd.Flags().StringVar(&files.Machine, "machine", "", "JSON file with the machine's shape (default: the declared qemu shape)")
	cmd.Flags().StringVar(&files.FirmwareConfig, "fw-cfg", "", "directory with QEMU's fw_cfg files (etc/table-loader, ...)")
	cmd.Flags().BoolVar(&qemu, "qemu", false, "ask the QEMU of this computer for the ACPI tables it makes")
	cmd.MarkFlagsMutuallyExclusive("qemu", "fw-cfg")
	cmd.Flags().StringVar(&format, "format", "", "text, json or pcrlock (default: as --output)")
	return cmd
}

// askQEMU reads the fw_cfg files from a QEMU whose machine stands still.
func askQEMU(ctx context.Context, files predict.Files) func(measurements.Machine) (map[string][]byte, error) {
	return func(shape measurements.Machine) (map[string][]byte, error) {
		return machine.ReadFirmwareConfig(ctx, machine.Config{
			Name:     "image-predict",
			Disk:     files.Disk,
			Firmware: machine.Firmware{Code: files.FirmwareCode, Vars: files.FirmwareVariables},
			Shape:    shape,
		})
	}
}

func runPredict(w io.Writer, files predict.Files, format string) error {
	if format != "text" && format != "json" && format != "pcrlock" {
		return fmt.Errorf("--format %q: want text, json or pcrlock", format)
	}
	p, err := predict.FromFiles(files)
	if err != nil {
		var missing *fs.PathError
		if errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) && (missing.Path == defaultFirmwareCode || missing.Path == defaultFirmwareVars) {
			return fmt.Errorf("%w\ninstall the package ovmf, or name the firmware with --firmware-code and --firmware-vars", err)
		}
		return err
	}
	switch format {
	case "json":
		data, err := p.JSON()
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	case "pcrlock":
		data, err := pcrlock.Encode(p)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	return writePrediction(w, p)
}

// writePrediction prints the events and the values for people.
func writePrediction(w io.Writer, p *measurements.Prediction) error {
	fmt.Fprintf(w, "image %s", p.Image.Name)
	for _, s := range []string{p.Image.Flavour, p.Image.Version} {
		if s != "" {
			fmt.Fprintf(w, " %s", s)
		}
	}
	fmt.Fprint(w, "\n\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PCR\tEVENT\tCOMPONENT\tSHA-256")
	for _, e := range p.Events {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", e.PCR, e.Description, e.Component, short(e.Digests[measurements.SHA256]))
	}
	fmt.Fprintln(tw)
	fmt.Fprintln(tw, "PCR\tENFORCED\tSHA-256")
	for pcr := range measurements.PCRCount {
		value := "not predicted"
		if v, ok := p.PCRs[measurements.SHA256][pcr]; ok {
			value = v.String()
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\n", pcr, yesNo(p.IsEnforced(pcr)), value)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, u := range p.Unpredicted {
		fmt.Fprintf(w, "not predicted: PCR %d, %s: %s\n", u.PCR, u.Event, u.Why)
	}
	return nil
}

func short(d measurements.Digest) string {
	if len(d) > 8 {
		d = d[:8]
	}
	return d.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
