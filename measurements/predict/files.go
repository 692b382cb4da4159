// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Files names the artifacts of a prediction on disk.
type Files struct {
	Disk              string // raw disk image
	FirmwareCode      string // OVMF_CODE*.fd
	FirmwareVariables string // OVMF_VARS*.fd
	Machine           string // JSON of measurements.Machine; empty: Shape
	FirmwareConfig    string // directory of fw_cfg files by their names; empty: none
	// Shape is the machine where no file names it; nil: measurements.QEMU.
	Shape *measurements.Machine
	// AskFirmwareConfig, if set, gives the fw_cfg files for a machine in place of a
	// directory.
	AskFirmwareConfig func(measurements.Machine) (map[string][]byte, error)
}

// maxConfigSize bounds all fw_cfg files together, in bytes.
const maxConfigSize = 32 << 20

// maxMachineSize bounds the JSON of a machine's shape, in bytes.
const maxMachineSize = 64 << 10

// FromFiles reads the artifacts and predicts. The disk is not read as a whole.
func FromFiles(f Files) (*measurements.Prediction, error) {
	in := Input{Machine: measurements.QEMU()}
	var err error
	if in.FirmwareCode, err = readFile(f.FirmwareCode, ovmf.MaxFlashSize); err != nil {
		return nil, err
	}
	if in.FirmwareVariables, err = readFile(f.FirmwareVariables, ovmf.MaxFlashSize); err != nil {
		return nil, err
	}
	switch {
	case f.Shape != nil && f.Machine != "":
		return nil, errors.New("two sources of the machine's shape")
	case f.Shape != nil:
		in.Machine = *f.Shape
	case f.Machine != "":
		raw, err := readFile(f.Machine, maxMachineSize)
		if err != nil {
			return nil, err
		}
		in.Machine = measurements.Machine{}
		if err := strictjson.Decode(raw, &in.Machine); err != nil {
			return nil, fail(ReasonMachine, "%s: %v", f.Machine, err)
		}
	}
	switch {
	case f.FirmwareConfig != "" && f.AskFirmwareConfig != nil:
		return nil, errors.New("two sources of fw_cfg files")
	case f.AskFirmwareConfig != nil:
		if in.FirmwareConfig, err = f.AskFirmwareConfig(in.Machine); err != nil {
			return nil, err
		}
	case f.FirmwareConfig != "":
		if in.FirmwareConfig, err = ReadFirmwareConfig(os.DirFS(f.FirmwareConfig)); err != nil {
			return nil, err
		}
	}
	disk, err := os.Open(f.Disk)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a disk image file", f.Disk)
	}
	in.Disk, in.DiskSize = disk, info.Size()
	return Predict(in)
}

// ReadFirmwareConfig reads fw_cfg files laid out as a directory tree: the file
// etc/acpi/tables of fw_cfg is the file etc/acpi/tables of the tree.
func ReadFirmwareConfig(tree fs.FS) (map[string][]byte, error) {
	out := make(map[string][]byte)
	left := int64(maxConfigSize)
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := tree.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, left+1))
		if err != nil {
			return err
		}
		if left -= int64(len(data)); left < 0 {
			return fail(ReasonACPI, "fw_cfg files of more than %d bytes", maxConfigSize)
		}
		out[path] = data
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, ok := out[tableLoader]; !ok {
		return nil, fail(ReasonACPI, "the fw_cfg files lack %s", tableLoader)
	}
	return out, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, errors.New("no firmware image named")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}
