// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"

	"github.com/constellation-os/constellation/measurements"
)

// Ports that the image's services know. A port is a virtio-serial channel on
// which the guest writes lines.
const (
	// MeasurementsPort carries one line of JSON: what the machine's TPM measured.
	MeasurementsPort = "org.constellation-os.measurements"
)

// Config describes one virtual machine. Fields that are zero take the default
// named beside them.
type Config struct {
	// Name appears in messages and in the list of processes. Default "machine".
	Name string
	// Disk is the raw image that the machine boots. It is opened read-only.
	Disk string
	// StateDisk is the raw file of the machine's second disk, which the machine
	// writes: see [CreateStateDisk]. Default, if Shape has such a disk: a blank one
	// of [StateDiskSize] in StateDir.
	StateDisk string
	// Firmware is the UEFI firmware.
	Firmware Firmware
	// Shape is what the firmware sees of the machine and may measure. Default
	// [measurements.QEMU], the shape that images are predicted for.
	Shape measurements.Machine
	// TPM configures the machine's TPM.
	TPM TPM
	// StateDir keeps the TPM's state, the firmware's variables and, without
	// StateDisk, the state disk from one run to the next, so that a later Start continues the same machine. Empty means
	// a temporary folder that is gone when the machine is.
	StateDir string
	// Ports are the names of the guest's virtio-serial ports. Default
	// [MeasurementsPort] alone.
	Ports []string
	// Console additionally receives the serial console's bytes as they come.
	// A writer that fails or blocks holds up the console, not the guest's memory.
	Console io.Writer
	// Network is what the machine's network adapter is plugged into. Nil means
	// nothing: what the guest sends is dropped.
	Network Network
	// MACAddress is the hardware address of the machine's network adapter, as
	// net.HardwareAddr prints it. Machines on one network need different ones.
	// Default [DefaultMACAddress].
	MACAddress string
	// Acceleration chooses how the guest's processor is run. Default
	// [AccelerationAuto].
	Acceleration Acceleration
	// ExtraArgs are appended to QEMU's arguments. For tests.
	ExtraArgs []string
}

// Firmware names the two halves of a UEFI firmware.
type Firmware struct {
	// Code is the firmware volume, opened read-only.
	Code string
	// Vars is the variable store's template; the machine works on a copy.
	Vars string
}

// A Network serves network adapters.
type Network interface {
	// Attach serves the adapter at the other end of conn until conn ends or ctx is
	// done. On conn each Ethernet frame follows its length in 4 bytes, big endian.
	// The frames are the guest's and not trusted.
	Attach(ctx context.Context, conn net.Conn)
}

// TPM configures a machine's software TPM.
type TPM struct {
	// Absent runs the machine without a TPM.
	Absent bool
	// Banks are the PCR banks to activate. Default sha256 and sha384.
	Banks []string
	// AuthorityDir, if set, is the folder of the local certificate authority that
	// certifies the TPM's endorsement keys; it is made at the first use. Empty
	// means a TPM without endorsement certificates.
	AuthorityDir string
}

// Acceleration says how the guest's processor is run.
type Acceleration string

const (
	// AccelerationAuto takes KVM where a probe machine really ran with it, else TCG.
	AccelerationAuto Acceleration = ""
	// AccelerationKVM takes KVM unprobed.
	AccelerationKVM Acceleration = "kvm"
	// AccelerationTCG emulates.
	AccelerationTCG Acceleration = "tcg"
)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)
	bankPattern = regexp.MustCompile(`^sha(1|256|384|512)$`)
)

// withDefaults returns the config with every default filled in, or what is wrong
// with it.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "machine"
	}
	if c.Shape.Board == "" {
		c.Shape = measurements.QEMU()
	}
	if c.MACAddress == "" {
		c.MACAddress = DefaultMACAddress
	}
	if c.Ports == nil {
		c.Ports = []string{MeasurementsPort}
	}
	if c.TPM.Banks == nil {
		c.TPM.Banks = []string{"sha256", "sha384"}
	}
	return c, c.check()
}

func (c Config) check() error {
	if !namePattern.MatchString(c.Name) {
		return fmt.Errorf("machine name %q: letters, digits, dots and dashes only, at most 63", c.Name)
	}
	if c.Firmware.Code == "" || c.Firmware.Vars == "" {
		return errors.New("a machine needs firmware: code and variable store")
	}
	if err := c.Shape.Check(); err != nil {
		return err
	}
	if c.StateDisk != "" && c.Shape.StateDisk() == 0 {
		return errors.New("a machine with a state disk needs a second " + measurements.ModelDisk + " device")
	}
	if len(c.Ports) > 0 && !slices.ContainsFunc(c.Shape.Devices, func(d measurements.Device) bool {
		return d.Model == measurements.ModelSerial
	}) {
		return errors.New("a machine with ports needs a " + measurements.ModelSerial + " device")
	}
	for _, port := range c.Ports {
		if !namePattern.MatchString(port) {
			return fmt.Errorf("port name %q: letters, digits, dots and dashes only, at most 63", port)
		}
	}
	for _, bank := range c.TPM.Banks {
		if !bankPattern.MatchString(bank) {
			return fmt.Errorf("unknown PCR bank %q", bank)
		}
	}
	if mac, err := net.ParseMAC(c.MACAddress); err != nil || len(mac) != 6 || mac.String() != c.MACAddress || mac[0]&1 != 0 {
		return fmt.Errorf("hardware address %q: want one of a single adapter, written as %s is", c.MACAddress, DefaultMACAddress)
	}
	switch c.Acceleration {
	case AccelerationAuto, AccelerationKVM, AccelerationTCG:
		return nil
	default:
		return fmt.Errorf("unknown acceleration %q", c.Acceleration)
	}
}
