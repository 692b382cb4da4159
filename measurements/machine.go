// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"fmt"
	"regexp"
)

// Machine is the declared shape of a QEMU machine: all that firmware sees of it
// and may measure. The runner makes QEMU's arguments from it, the predictor the
// events; a machine of another shape measures something else into PCR 1.
//
// Fixed for every machine: no default devices (-nodefaults), no display adapter,
// SMM off, one 16550 serial port, TPM 2.0 behind the CRB interface with SHA-256
// and SHA-384 banks, OVMF in two pflash units, no option ROMs.
type Machine struct {
	// Board is QEMU's machine type, versioned so that ACPI tables stay the same
	// in later QEMU versions.
	Board string `json:"board"`
	// CPU is the model for QEMU's -cpu, without features.
	CPU string `json:"cpu"`
	// CPUs is the number of virtual CPUs.
	CPUs int `json:"cpus"`
	// MemoryMiB is the memory's size in MiB.
	MemoryMiB int `json:"memory_mib"`
	// Devices sit on PCI bus 0, function 0 of their slot, ascending by slot.
	Devices []Device `json:"devices"`
}

// Device is one PCI device.
type Device struct {
	// Slot is the PCI device number. 0 and 31 are the chip set's.
	Slot int `json:"slot"`
	// Model is QEMU's name of the device.
	Model string `json:"model"`
	// Boot marks the one disk that firmware boots from (bootindex=0). Another disk is
	// the state disk.
	Boot bool `json:"boot,omitempty"`
}

// Device models that a Machine may have.
const (
	ModelNet    = "virtio-net-pci" // with romfile= (empty): no option ROM
	ModelDisk   = "virtio-blk-pci"
	ModelSerial = "virtio-serial-pci"
	ModelRNG    = "virtio-rng-pci"
)

// QEMU is the declared shape that images are predicted for by default.
func QEMU() Machine {
	return Machine{
		Board:     "pc-q35-10.0",
		CPU:       "max",
		CPUs:      2,
		MemoryMiB: 2048,
		Devices: []Device{
			{Slot: 2, Model: ModelNet},
			{Slot: 3, Model: ModelDisk, Boot: true},
			{Slot: 4, Model: ModelSerial},
			{Slot: 5, Model: ModelRNG},
			{Slot: 6, Model: ModelDisk},
		},
	}
}

// Board and CPU become parts of QEMU's arguments, where a comma begins an option.
var (
	boardPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)
	cpuPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Check says what is wrong with a shape, nil if nothing is. A shape may come with an
// image from a stranger.
func (m *Machine) Check() error {
	if !boardPattern.MatchString(m.Board) {
		return fmt.Errorf("machine: board %.80q: want the name of a QEMU machine type, such as pc-q35-10.0", m.Board)
	}
	if !cpuPattern.MatchString(m.CPU) {
		return fmt.Errorf("machine: cpu %.80q: want the name of a QEMU processor model, such as max, without features", m.CPU)
	}
	if m.CPUs < 1 || m.CPUs > 255 {
		return fmt.Errorf("machine: %d CPUs, want 1 to 255", m.CPUs)
	}
	if m.MemoryMiB < 256 || m.MemoryMiB > 1<<20 {
		return fmt.Errorf("machine: %d MiB of memory, want 256 to %d", m.MemoryMiB, 1<<20)
	}
	boot, state, last := 0, 0, 0
	for _, d := range m.Devices {
		if d.Slot <= last || d.Slot > 30 {
			return fmt.Errorf("machine: PCI slot %d: want ascending slots of 1 to 30", d.Slot)
		}
		last = d.Slot
		switch d.Model {
		case ModelNet, ModelSerial, ModelRNG:
			if d.Boot {
				return fmt.Errorf("machine: %s in slot %d cannot be booted from", d.Model, d.Slot)
			}
		case ModelDisk:
			if d.Boot {
				boot++
			} else {
				state++
			}
		default:
			return fmt.Errorf("machine: unknown device model %q", d.Model)
		}
	}
	if boot != 1 {
		return fmt.Errorf("machine: %d boot disks, want one", boot)
	}
	if state > 1 {
		return fmt.Errorf("machine: %d disks besides the boot disk, want at most one, the state disk", state)
	}
	return nil
}

// BootDisk is the slot of the disk that firmware boots from.
func (m *Machine) BootDisk() int { return m.disk(true) }

// StateDisk is the slot of the state disk, 0 if the machine has none.
func (m *Machine) StateDisk() int { return m.disk(false) }

func (m *Machine) disk(boot bool) int {
	for _, d := range m.Devices {
		if d.Model == ModelDisk && d.Boot == boot {
			return d.Slot
		}
	}
	return 0
}
