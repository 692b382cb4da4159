// SPDX-License-Identifier: Apache-2.0

// Package measurements is the command "constellation measurements": get what an image
// must measure, and find out whether an image is the one that it was made for.
package measurements

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/predict"
)

// DefaultFile is where measurements are put and looked for.
const DefaultFile = "measurements.json"

// Where firmware is: what Bazel says, or Debian's package ovmf.
const (
	firmwareEnv     = "CONSTELLATION_FIRMWARE"
	firmwareFolder  = "/usr/share/OVMF"
	firmwareCode    = "OVMF_CODE_4M.fd"
	firmwareVars    = "OVMF_VARS_4M.fd"
	diskFile        = "disk.raw"
	measurementFile = "measurements.json"
)

// Command makes "measurements" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "measurements",
		Short: "Get the measurements of an image, and check an image by them",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(fetchCommand(), verifyCommand())
	return cmd
}

// summary is what fetch says of measurements, as JSON.
type summary struct {
	File     string             `json:"file"`
	Image    measurements.Image `json:"image"`
	Enforced []int              `json:"enforced"`
}

func fetchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch SOURCE [FILE]",
		Short: "Copy an image's measurements, if they are sound",
		Long: `fetch reads the measurements of an image from SOURCE, a file or an image's folder, checks
that they are complete, and writes them to FILE (` + DefaultFile + ` by default), which
must not exist.

Measurements are what you will trust: get them from where you trust the image's maker,
or from your own build of the image.`,
		Example: `  constellation measurements fetch bazel-bin/image/qemu`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, p, err := Read(command.FromCaller(args[0]))
			if err != nil {
				return err
			}
			to := DefaultFile
			if len(args) > 1 {
				to = args[1]
			}
			if err := command.WriteNew(cmd, to, data, 0o644); err != nil {
				return err
			}
			return write(cmd, summary{to, p.Image, p.Enforced})
		},
	}
}

// Read reads measurements from a file, or from an image's folder.
func Read(source string) ([]byte, *measurements.Prediction, error) {
	if info, err := os.Stat(source); err == nil && info.IsDir() {
		source = filepath.Join(source, measurementFile)
	}
	data, err := command.ReadFile(source, measurements.MaxPredictionSize)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w\nwhat to do: name a measurements.json, or a folder with one, such as tools/bazel build //image:qemu makes", err)
		}
		return nil, nil, err
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", source, err)
	}
	return data, p, nil
}

func write(cmd *cobra.Command, s summary) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	if format == command.JSON {
		return command.WriteJSON(cmd.OutOrStdout(), s)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "file      %s\nimage     %s\nenforced  PCR %s\n", s.File, imageName(s.Image), list(s.Enforced))
	return err
}

// verdict is what verify found, as JSON.
type verdict struct {
	File  string             `json:"file"`
	Image measurements.Image `json:"image"`
	Match bool               `json:"match"`
	// Differ are the registers that are enforced and differ.
	Differ []int `json:"differ"`
}

func verifyCommand() *cobra.Command {
	var files predict.Files
	cmd := &cobra.Command{
		Use:   "verify IMAGE [FILE]",
		Short: "Compute what an image measures, and compare",
		Long: `verify computes what a machine measures that boots IMAGE (a disk, or an image's folder),
and compares that with FILE (` + DefaultFile + ` by default). Nothing is booted.

Exit codes: 0 they are the same, 1 they differ, 2 nothing was compared.`,
		Example: `  constellation measurements verify bazel-bin/image/qemu
  constellation measurements verify disk.raw published.json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := DefaultFile
			if len(args) > 1 {
				file = args[1]
			}
			_, published, err := Read(command.FromCaller(file))
			if err != nil {
				return err
			}
			for name, path := range map[string]*string{"firmware-code": &files.FirmwareCode, "firmware-vars": &files.FirmwareVariables} {
				if cmd.Flags().Changed(name) {
					*path = command.FromCaller(*path)
				}
			}
			files.Disk = command.FromCaller(args[0])
			differ, err := Verify(files, published)
			if err != nil {
				return err
			}
			return writeVerdict(cmd, verdict{file, published.Image, len(differ) == 0, differ})
		},
	}
	cmd.Flags().StringVar(&files.FirmwareCode, "firmware-code", defaultFirmware(firmwareCode), "OVMF code image")
	cmd.Flags().StringVar(&files.FirmwareVariables, "firmware-vars", defaultFirmware(firmwareVars), "OVMF variable store, as no firmware has written to it")
	return cmd
}

func defaultFirmware(name string) string {
	if dir := os.Getenv(firmwareEnv); dir != "" {
		return filepath.Join(dir, name)
	}
	return filepath.Join(firmwareFolder, name)
}

// Verify predicts an image, and says which registers that are enforced differ from the
// published ones. files.Disk may be an image's folder.
func Verify(files predict.Files, published *measurements.Prediction) ([]int, error) {
	if info, err := os.Stat(files.Disk); err == nil && info.IsDir() {
		files.Disk = filepath.Join(files.Disk, diskFile)
	}
	files.Shape = published.Machine
	p, err := predict.FromFiles(files)
	if err != nil {
		return nil, fmt.Errorf("predict %s: %w", files.Disk, err)
	}
	differ := []int{}
	for _, pcr := range published.Enforced {
		for algorithm, values := range published.PCRs {
			if values[pcr].String() != p.PCRs[algorithm][pcr].String() && !slices.Contains(differ, pcr) {
				differ = append(differ, pcr)
			}
		}
	}
	slices.Sort(differ)
	return differ, nil
}

func writeVerdict(cmd *cobra.Command, v verdict) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	switch {
	case format == command.JSON:
		err = command.WriteJSON(cmd.OutOrStdout(), v)
	case v.Match:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the image is %s, as %s says\n", imageName(v.Image), v.File)
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the image is not %s, as %s says: PCR %s would differ\nwhat to do: use the image that the measurements were made for, or get the measurements of this one from its maker\n",
			imageName(v.Image), v.File, list(v.Differ))
	}
	if err == nil && !v.Match {
		err = command.ErrMismatch
	}
	return err
}
