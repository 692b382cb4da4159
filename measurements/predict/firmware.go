// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/printable"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// firmware predicts what OVMF measures before it starts a program.
func (b *builder) firmware(in *Input, code *ovmf.Code, vars ovmf.Variables) error {
	if code.SecureBoot() {
		return fail(ReasonSecureBoot, "the firmware enforces Secure Boot, whose events are not modelled; use the build without it (OVMF_CODE_4M.fd)")
	}
	if err := b.firmwareCode(code); err != nil {
		return err
	}
	b.secureBootVariables(vars)
	if err := b.acpi(in.FirmwareConfig); err != nil {
		return err
	}
	if err := b.bootOptions(&in.Machine, code, vars); err != nil {
		return err
	}
	// Tcg2Dxe at ReadyToBoot (TCG PFP 1.06, section 8.2.4).
	b.add(4, tcg.EFIAction, measurements.ComponentFirmware, "calling EFI application from boot option",
		[]byte("Calling EFI Application from Boot Option"))
	for pcr := range 7 {
		b.separator(pcr)
	}
	return nil
}

// separator is what ends the firmware's own measurements into a PCR (TCG PFP
// 1.06, section 10.4.1, EV_SEPARATOR): four zero bytes.
func (b *builder) separator(pcr int) {
	b.add(pcr, tcg.Separator, measurements.ComponentFirmware, "separator", make([]byte, 4))
}

// firmwareCode predicts PCR 0 (SecurityPkg/Tcg/Tcg2Pei): the version, then the
// volumes that SEC unpacked.
func (b *builder) firmwareCode(code *ovmf.Code) error {
	version, err := firmwareVersion(code)
	if err != nil {
		return err
	}
	b.add(0, tcg.CRTMVersion, measurements.ComponentFirmware, "firmware version", version)
	pei, err := code.MeasuredPEI()
	switch {
	case missing(err):
		b.cannot(0, "PEI volume", "the firmware is not of a build that this program knows: the PEI core's variables were not found")
	case err != nil:
		return err
	default:
		b.add(0, tcg.EFIPlatformBlob, measurements.ComponentFirmware, "PEI volume", pei)
	}
	b.add(0, tcg.EFIPlatformBlob, measurements.ComponentFirmware, "DXE volume", code.DXE.Data)
	return nil
}

// firmwareVersion is the version that the firmware measures, if that is a build of
// the modelled release: Debian's is "2025.02-8+deb13u1".
func firmwareVersion(code *ovmf.Code) ([]byte, error) {
	const next = "use the one of Debian 13's package ovmf, or a version of this program that knows yours"
	version, err := code.Version()
	switch {
	case missing(err):
		return nil, fail(ReasonFirmware, "the firmware's version is not known (%v), known is what OVMF %s measures: %s", err, firmwareRelease, next)
	case err != nil:
		return nil, err
	}
	text := printable.Text(version, 64) // UTF-16: every other byte is zero
	if release, _, _ := strings.Cut(text, "-"); release != firmwareRelease {
		return nil, fail(ReasonFirmware, "the firmware has version %q, known is what OVMF %s measures: %s", text, firmwareRelease, next)
	}
	return version, nil
}

// missing says whether something is not where this program looks for it in the firmware.
func missing(err error) bool {
	var e *ovmf.Error
	return errors.As(err, &e) && e.Reason == ovmf.ReasonMissing
}

// secureBootVariables predicts PCR 7 (SecurityPkg/Tcg/Tcg2Dxe,
// MeasureAllSecureVariables; TCG PFP 1.06, section 3.3.4.8). Firmware without
// Secure Boot measures the variables all the same, absent ones as empty.
func (b *builder) secureBootVariables(vars ovmf.Variables) {
	for _, v := range []struct {
		vendor gpt.GUID
		name   string
	}{
		{ovmf.GlobalVariable, "SecureBoot"},
		{ovmf.GlobalVariable, "PK"},
		{ovmf.GlobalVariable, "KEK"},
		{ovmf.SecurityDatabase, "db"},
		{ovmf.SecurityDatabase, "dbx"},
	} {
		data, _ := vars.Get(v.vendor, v.name)
		b.policyVariable(v.vendor, v.name, data)
	}
	// The time stamp database is measured only if it exists.
	if data, ok := vars.Get(ovmf.SecurityDatabase, "dbt"); ok {
		b.policyVariable(ovmf.SecurityDatabase, "dbt", data)
	}
	b.separator(7)
}

// policyVariable measures UEFI_VARIABLE_DATA (TCG PFP 1.06, section 10.2.6).
func (b *builder) policyVariable(vendor gpt.GUID, name string, data []byte) {
	units := utf16.Encode([]rune(name))
	out := bytes.NewBuffer(nil)
	out.Write(vendor[:])
	binary.Write(out, binary.LittleEndian, uint64(len(units)))
	binary.Write(out, binary.LittleEndian, uint64(len(data)))
	binary.Write(out, binary.LittleEndian, units)
	out.Write(data)
	b.add(7, tcg.EFIVariableDriverConfig, measurements.ComponentVariables, "variable "+name, out.Bytes())
}

// Files of QEMU's ACPI linker and loader (docs/specs/acpi_... of QEMU; OVMF:
// OvmfPkg/Library/AcpiPlatformLib).
const (
	tableLoader      = "etc/table-loader"
	loaderEntrySize  = 128
	loaderAllocate   = 1
	loaderNameSize   = 56
	maxLoaderEntries = 4096
)

// acpi predicts the ACPI part of PCR 1: OVMF measures the loader's script and
// then each file as it allocates it, before it patches anything
// (QemuFwCfgAcpi.c, InstallQemuFwCfgTables and ProcessCmdAllocate).
func (b *builder) acpi(files map[string][]byte) error {
	script, ok := files[tableLoader]
	if !ok {
		b.cannot(1, "ACPI tables", "they are made by QEMU; give its fw_cfg files to predict them")
		return nil
	}
	if len(script)%loaderEntrySize != 0 || len(script)/loaderEntrySize > maxLoaderEntries {
		return fail(ReasonACPI, "%s of %d bytes", tableLoader, len(script))
	}
	b.add(1, tcg.PlatformConfigFlags, measurements.ComponentMachine, "ACPI loader script", script)
	for at := 0; at < len(script); at += loaderEntrySize {
		e := script[at : at+loaderEntrySize]
		if binary.LittleEndian.Uint32(e) != loaderAllocate {
			continue
		}
		name, _, _ := bytes.Cut(e[4:4+loaderNameSize], []byte{0})
		data, ok := files[string(name)]
		if !ok {
			return fail(ReasonACPI, "%s allocates %q, which is not there", tableLoader, name)
		}
		b.add(1, tcg.PlatformConfigFlags, measurements.ComponentMachine, "ACPI file "+string(name), data)
	}
	return nil
}
