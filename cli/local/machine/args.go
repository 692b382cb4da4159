// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/constellation-os/constellation/measurements"
)

// hardware returns the QEMU arguments that make up the guest-visible machine.
// A machine that boots and one that is only asked for its firmware
// configuration share them to the letter; acceleration, too, is visible to the
// guest. tpm is the descriptor of the TPM's control channel.
func (c Config) hardware(accel Acceleration, tpm int) []string {
	args := []string{
		"-name", c.Name,
		"-no-user-config", "-nodefaults", "-display", "none",
		"-machine", c.Shape.Board + ",smm=off,vmport=off,sata=off,graphics=off",
		// Without sleep states the firmware keeps no resume script in guest memory.
		"-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1",
		"-boot", "menu=off,strict=on",
		"-cpu", c.cpu(accel),
		"-smp", strconv.Itoa(c.Shape.CPUs),
		"-m", strconv.Itoa(c.Shape.MemoryMiB) + "M",
		"-object", "rng-random,id=random,filename=/dev/urandom",
	}
	switch accel {
	case AccelerationKVM:
		args = append(args, "-accel", "kvm")
	default:
		args = append(args, "-accel", "tcg,thread=multi")
	}
	for _, d := range c.Shape.Devices {
		args = append(args, c.device(d)...)
	}
	if !c.TPM.Absent {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=tpm,fd=%d", tpm),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm0")
	}
	return args
}

// cpu is the processor's model. TCG repeats a string instruction element by element, so that what is short for real
// processors, one instruction for bytes, is the longest: without these features the kernel moves words, and clears and
// copies pages four to ten times faster. No firmware measures them.
func (c Config) cpu(accel Acceleration) string {
	if accel == AccelerationKVM {
		return c.Shape.CPU
	}
	return c.Shape.CPU + ",-erms,-fsrm,-fzrm,-fsrs,-fsrc"
}

// device returns the arguments for one PCI device and what is behind it.
func (c Config) device(d measurements.Device) []string {
	at := fmt.Sprintf("%s,bus=pcie.0,addr=0x%x", d.Model, d.Slot)
	switch d.Model {
	case measurements.ModelDisk:
		return c.disk(at, d.Boot)
	case measurements.ModelSerial:
		return []string{"-device", at + ",id=ports"}
	case measurements.ModelRNG:
		return []string{"-device", at + ",rng=random"}
	case measurements.ModelNet:
		// With nothing plugged into the adapter what the guest sends is dropped. The
		// guest cannot tell before its driver runs, and the firmware measures the same.
		adapter := at + ",romfile=,mac=" + c.MACAddress
		if c.Network != nil {
			adapter += ",netdev=" + netdev
		}
		return []string{"-device", adapter}
	default:
		return []string{"-device", at}
	}
}

// disk returns the arguments for the boot disk or the state disk.
func (c Config) disk(at string, boot bool) []string {
	if boot {
		return []string{
			"-blockdev", blockdev(map[string]any{
				"node-name": "image", "driver": "raw", "read-only": true,
				"file": map[string]any{"driver": "file", "filename": c.Disk},
			}),
			"-device", at + ",drive=image,bootindex=0",
		}
	}
	// What the guest wrote outlives the machine's power cut: this computer has it in its own cache. Waiting until it
	// is on this computer's disk, as each of etcd's commits would, protects from nothing but this computer's crash.
	noFlush := map[string]any{"no-flush": true}
	return []string{
		"-blockdev", blockdev(map[string]any{
			"node-name": "state", "driver": "raw", "cache": noFlush,
			"file": map[string]any{"driver": "file", "filename": c.StateDisk, "cache": noFlush},
		}),
		"-device", at + ",drive=state,serial=" + StateDiskSerial,
	}
}

// DefaultMACAddress is the hardware address of a machine's network adapter (locally
// administered, RFC 7042). It shows in no boot event: firmware that boots from a disk
// neither connects the adapter nor makes a boot option of it.
const DefaultMACAddress = "52:54:00:00:00:01"

// netdev is QEMU's name of what the network adapter is plugged into.
const netdev = "network"

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
	for _, p := range []*string{&c.Disk, &c.StateDisk, &c.Firmware.Code, &c.Firmware.Vars, &c.StateDir, &c.TPM.AuthorityDir} {
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
