// SPDX-License-Identifier: Apache-2.0

// Command predictor writes measurements.json: what a TPM reports once the image
// has booted on the declared machine. It exists so that the image's build needs
// no more of the command line tool than package predict.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/constellation-os/constellation/measurements/predict"
)

func main() {
	var f predict.Files
	flag.StringVar(&f.Disk, "disk", "", "raw disk image")
	flag.StringVar(&f.FirmwareCode, "firmware-code", "", "OVMF code image")
	flag.StringVar(&f.FirmwareVariables, "firmware-vars", "", "OVMF variable store")
	flag.StringVar(&f.Machine, "machine", "", "machine shape (JSON), default: the declared one")
	flag.StringVar(&f.FirmwareConfig, "fw-cfg", "", "directory of fw_cfg files")
	out := flag.String("out", "", "measurements.json to write")
	flag.Parse()
	if err := run(f, *out); err != nil {
		fmt.Fprintln(os.Stderr, "predictor:", err)
		os.Exit(1)
	}
}

func run(f predict.Files, out string) error {
	p, err := predict.FromFiles(f)
	if err != nil {
		return err
	}
	data, err := p.JSON()
	if err != nil {
		return err
	}
	return os.WriteFile(out, data, 0o644)
}
