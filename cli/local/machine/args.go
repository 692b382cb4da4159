// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// PCI slots of the machine's devices on the root bus of the q35 board. They are
// fixed because boot options and ACPI tables, which the firmware measures,
// mention them.
const (
	DiskSlot   = 3
	SerialSlot = 4
	RNGSlot    = 5
)

// hardware returns the QEMU arguments that make up the guest-visible machine.
// A machine that boots and one that is only asked for its firmware
// configuration share them to the letter; acceleration, too, is visible to the
// guest. tpm is the descriptor of the TPM's control channel.
func (c Config) hardware(accel Acceleration, tpm int) []string {
	args := []string{
		"-name", c.Name,
		"-no-user-config", "-nodefaults", "-display", "none",
		"-machine", "q35,smm=off,vmport=off,sata=off,graphics=off",
		// Without sleep states the firmware keeps no resume script in guest memory.
		"-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1",
		"-boot", "menu=off,strict=on",
		"-smp", strconv.Itoa(c.CPUs),
		"-m", strconv.Itoa(c.MemoryMiB) + "M",
		"-device", pciDevice("virtio-rng-pci", RNGSlot, "rng=random"),
		"-object", "rng-random,id=random,filename=/dev/urandom",
	}
	switch accel {
	case AccelerationKVM:
		args = append(args, "-accel", "kvm", "-cpu", "host")
	default:
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	if c.Disk != "" {
		args = append(args,
			"-blockdev", blockdev(map[string]any{
				"node-name": "image", "driver": "raw", "read-only": true,
				"file": map[string]any{"driver": "file", "filename": c.Disk},
			}),
			"-device", pciDevice("virtio-blk-pci", DiskSlot, "drive=image,bootindex=1"))
	}
	if !c.TPM.Absent {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=tpm,fd=%d", tpm),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm0")
	}
	if len(c.Ports) > 0 {
		args = append(args, "-device", pciDevice("virtio-serial-pci", SerialSlot, "id=ports"))
	}
	return args
}

// pflash returns the arguments for the firmware's two flash devices.
func pflash(code, vars string) []string {
	return []string{
		"-blockdev", blockdev(map[string]any{
			"node-name": "firmware-code", "driver": "raw", "read-only": true,
			"file": map[string]any{"driver": "file", "filename": code},
		}),
		"-blockdev", blockdev(map[string]any{
			"node-name": "firmware-vars", "driver": "raw",
			"file": map[string]any{"driver": "file", "filename": vars},
		}),
		"-machine", "pflash0=firmware-code,pflash1=firmware-vars",
	}
}

func pciDevice(driver string, slot int, properties string) string {
	return fmt.Sprintf("%s,bus=pcie.0,addr=0x%x,%s", driver, slot, properties)
}

// blockdev is JSON, so that no character of a file name means anything to QEMU.
func blockdev(options map[string]any) string {
	text, err := json.Marshal(options)
	if err != nil {
		panic(err) // maps of strings and booleans only
	}
	return string(text)
}

// descriptors collects the files that a child inherits.
type descriptors []*os.File

// add returns the number that the file has in the child.
func (d *descriptors) add(f *os.File) int {
	*d = append(*d, f)
	return 2 + len(*d)
}

// absolute makes the config's paths independent of the working directory.
func (c Config) absolute() (Config, error) {
	for _, p := range []*string{&c.Disk, &c.Firmware.Code, &c.Firmware.Vars, &c.StateDir, &c.TPM.AuthorityDir} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, fmt.Errorf("make %s absolute: %w", *p, err)
		}
		*p = abs
	}
	return c, nil
}
