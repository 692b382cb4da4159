// SPDX-License-Identifier: Apache-2.0

// Package predict computes what a TPM reports after booting an image: every
// event that extends PCR 0 to 15, in order, for SHA-256 and SHA-384.
//
// Everything comes from artifacts: the disk with the UKI, OVMF's code and
// variable store, the declared shape of the machine. No value is recorded from a
// boot. What is modelled is EDK II's OVMF 2025.02 without Secure Boot enforcement,
// systemd-stub 257 and Linux 6.12; docs/measurements.md names the source of each
// event. Other versions of these, and an input that makes the boot depend on
// something else (a file next to the UKI, a UKI with profiles, a used variable
// store), are refused with a typed reason, because a prediction that may be wrong is
// worse than none. Versions are what the artifacts say of themselves: a build of
// version 2025.02 with patches of its own that measure otherwise is not noticed.
package predict

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/esp"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/printable"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// Input is everything that decides what is measured.
type Input struct {
	// Disk is the bootable disk, DiskSize its length in bytes.
	Disk     io.ReaderAt
	DiskSize int64
	// FirmwareCode and FirmwareVariables are OVMF's two flash images.
	FirmwareCode      []byte
	FirmwareVariables []byte
	// Machine is the declared shape.
	Machine measurements.Machine
	// FirmwareConfig holds QEMU's fw_cfg files as firmware reads them, by name:
	// etc/table-loader and the files it allocates. Without them the ACPI tables
	// are named as unpredicted; PCR 1 and what depends on it are then absent.
	FirmwareConfig map[string][]byte
}

// Reason classifies why a boot cannot be predicted.
type Reason string

// Reasons of Predict. Reasons of the parsers (gpt, esp, pe, ovmf) come through
// in their own error types.
const (
	ReasonNoESP          Reason = "no-esp"          // not exactly one EFI system partition
	ReasonUnexpectedFile Reason = "unexpected-file" // a file next to the UKI, which may take part in the boot
	ReasonNoCommandLine  Reason = "no-command-line" // the UKI has no command line of its own
	ReasonCommandLine    Reason = "command-line"    // the command line changes what is measured
	ReasonStub           Reason = "stub"            // the UKI's stub is not of the version that is modelled
	ReasonKernel         Reason = "kernel"          // the UKI's kernel is not of the version that is modelled
	ReasonFirmware       Reason = "firmware"        // the firmware is not of the version that is modelled
	ReasonSecureBoot     Reason = "secure-boot"     // the firmware enforces Secure Boot
	ReasonBootOptions    Reason = "boot-options"    // the variable store brings its own boot options
	ReasonMachine        Reason = "machine"         // the machine's shape is not one that is modelled
	ReasonACPI           Reason = "acpi"            // the fw_cfg files contradict each other
)

// Error is returned by Predict.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "predict: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// BootFile is the program that firmware starts from a disk without a boot entry
// of its own (UEFI Specification 2.10, section 3.5.1.1).
const BootFile = "EFI/BOOT/BOOTX64.EFI"

// Predict computes the prediction.
func Predict(in Input) (*measurements.Prediction, error) {
	if err := in.Machine.Check(); err != nil {
		return nil, fail(ReasonMachine, "%v", err)
	}
	if !strings.HasPrefix(in.Machine.Board, "pc-q35-") && in.Machine.Board != "q35" {
		return nil, fail(ReasonMachine, "board %q: only q35 boards are modelled", in.Machine.Board)
	}
	table, err := gpt.Parse(in.Disk, in.DiskSize)
	if err != nil {
		return nil, err
	}
	uki, raw, err := readUKI(in.Disk, table)
	if err != nil {
		return nil, err
	}
	code, err := ovmf.ParseCode(in.FirmwareCode)
	if err != nil {
		return nil, err
	}
	vars, err := ovmf.ParseVariables(in.FirmwareVariables)
	if err != nil {
		return nil, err
	}
	b := &builder{unpredicted: []measurements.Unpredicted{}}
	if err := b.firmware(&in, code, vars); err != nil {
		return nil, err
	}
	if err := b.bootDisk(table, uki); err != nil {
		return nil, err
	}
	if err := b.kernel(uki); err != nil {
		return nil, err
	}
	machine := in.Machine
	p := &measurements.Prediction{
		Version:     measurements.Version,
		Image:       describe(uki),
		Machine:     &machine,
		Events:      b.events,
		Enforced:    measurements.EnforcedQEMU(),
		Unpredicted: b.unpredicted,
	}
	p.Image.Artifacts = map[string]measurements.Digest{
		"uki":                measurements.Sum(raw)[measurements.SHA256],
		"firmware-code":      measurements.Sum(in.FirmwareCode)[measurements.SHA256],
		"firmware-variables": measurements.Sum(in.FirmwareVariables)[measurements.SHA256],
	}
	if err := ima(p, uki); err != nil {
		return nil, err
	}
	p.PCRs = p.Replay()
	return p, nil
}

// readUKI finds the one program on the disk's one EFI system partition.
func readUKI(disk io.ReaderAt, table *gpt.Table) (*pe.UKI, []byte, error) {
	var part *gpt.Partition
	for i := range table.Partitions {
		if table.Partitions[i].Type != gpt.TypeESP {
			continue
		}
		if part != nil {
			return nil, nil, fail(ReasonNoESP, "two EFI system partitions")
		}
		part = &table.Partitions[i]
	}
	if part == nil {
		return nil, nil, fail(ReasonNoESP, "no EFI system partition")
	}
	fs, err := esp.Open(io.NewSectionReader(disk, part.Offset(), part.Size()), part.Size())
	if err != nil {
		return nil, nil, err
	}
	for _, f := range fs.Files {
		if !strings.EqualFold(f.Path, BootFile) {
			return nil, nil, fail(ReasonUnexpectedFile, "%q lies next to %s; systemd-stub may load it", f.Path, BootFile)
		}
	}
	raw, err := fs.ReadFile(BootFile)
	if err != nil {
		return nil, nil, err
	}
	uki, err := pe.ParseUKI(raw)
	if err != nil {
		return nil, nil, err
	}
	return uki, raw, checkVersions(uki)
}

// Versions whose measurements are modelled. Other versions of systemd-stub have
// measured other sections, or in another order; of Linux, other data or into other
// PCRs; of OVMF, other events.
const (
	stubMajor       = "257"
	kernelSeries    = "6.12."
	firmwareRelease = "2025.02"
)

// checkVersions refuses UKIs whose parts are not the modelled ones.
func checkVersions(uki *pe.UKI) error {
	if major, _, _ := strings.Cut(uki.Stub, "."); major != stubMajor {
		return fail(ReasonStub, "the UKI has systemd-stub %.40q, known is what version %s measures: "+
			"build the image with that, or use a version of this program that knows yours", uki.Stub, stubMajor)
	}
	if uname, _ := uki.Section(".uname"); !bytes.HasPrefix(uname, []byte(kernelSeries)) {
		return fail(ReasonKernel, "the UKI says in .uname that its kernel is %.40q, known is what Linux %sx measures: "+
			"build the image with that, or use a version of this program that knows yours", uname, kernelSeries)
	}
	return nil
}

// describe takes the image's name from what the UKI says about itself, made printable.
func describe(uki *pe.UKI) measurements.Image {
	img := measurements.Image{Name: "unnamed"}
	osrel, _ := uki.Section(".osrel")
	fields := map[string]string{}
	for line := range strings.Lines(string(osrel)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[k] = printable.Text(strings.Trim(v, `"'`), measurements.MaxName)
		}
	}
	for _, k := range []string{"IMAGE_ID", "ID"} {
		if fields[k] != "" {
			img.Name = fields[k]
			break
		}
	}
	for _, k := range []string{"IMAGE_VERSION", "VERSION_ID"} {
		if fields[k] != "" {
			img.Version = fields[k]
			break
		}
	}
	cmdline, _ := uki.Section(".cmdline")
	for _, arg := range strings.Fields(string(cmdline)) {
		if v, ok := strings.CutPrefix(arg, "constellation.flavour="); ok {
			img.Flavour = printable.Text(v, measurements.MaxName)
		}
	}
	return img
}

// maxDescription bounds an event's description, in bytes. Names from fw_cfg are in some.
const maxDescription = 160

// builder collects events in the order in which they are measured.
type builder struct {
	events      []measurements.Event
	unpredicted []measurements.Unpredicted
}

func (b *builder) add(pcr int, typ tcg.EventType, component measurements.Component, description string, data ...[]byte) {
	b.events = append(b.events, measurements.Event{
		PCR: pcr, Type: typ.String(), Digests: measurements.Sum(data...), Component: component,
		Description: printable.Text(description, maxDescription),
	})
}

// cannot records that an event of a PCR is missing from the prediction.
func (b *builder) cannot(pcr int, event, why string) {
	b.unpredicted = append(b.unpredicted, measurements.Unpredicted{PCR: pcr, Event: event, Why: why})
}

// predicted says whether all events of a PCR are known.
func predicted(unpredicted []measurements.Unpredicted, pcr int) bool {
	return !slices.ContainsFunc(unpredicted, func(u measurements.Unpredicted) bool { return u.PCR == pcr })
}
