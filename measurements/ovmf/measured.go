// SPDX-License-Identifier: Apache-2.0

package ovmf

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// unpack decodes the body of a GUID-defined section with LZMA data, behind its
// GUID, data offset and attributes (PI 1.8 volume 3, section 3.2.5.7).
func unpack(body []byte) ([]byte, error) {
	if len(body) < 20 || !bytes.Equal(body[:16], lzmaSection[:]) {
		return nil, fail(ReasonCompression, "the volumes are not LZMA-compressed")
	}
	// The offset counts from the section's header, which has 4 bytes.
	offset := int(binary.LittleEndian.Uint16(body[16:])) - 4
	if offset < 20 || offset > len(body) {
		return nil, fail(ReasonCompression, "data at %d of %d bytes", offset, len(body))
	}
	packed := body[offset:]
	if len(packed) < lzma.HeaderLen {
		return nil, fail(ReasonCompression, "%d bytes of data", len(packed))
	}
	// The header names the dictionary's and the unpacked size. The decoder would
	// allocate the dictionary, so it is bounded by what there is to unpack.
	size := binary.LittleEndian.Uint64(packed[5:])
	if size > maxUnpackedSize {
		return nil, fail(ReasonTooLarge, "volumes of %d bytes, at most %d", size, maxUnpackedSize)
	}
	if dict := binary.LittleEndian.Uint32(packed[1:]); dict > maxUnpackedSize {
		return nil, fail(ReasonTooLarge, "dictionary of %d bytes, at most %d", dict, maxUnpackedSize)
	}
	r, err := lzma.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fail(ReasonCompression, "%v", err)
	}
	// The size is a claim until that much was unpacked: firmware packs to about a
	// tenth, and more than that is not allocated up front.
	out := bytes.NewBuffer(make([]byte, 0, min(size+bytes.MinRead, 16*uint64(len(packed)))))
	if n, err := io.Copy(out, io.LimitReader(r, int64(size)+1)); err != nil || uint64(n) != size {
		return nil, fail(ReasonCompression, "%d of %d bytes unpacked: %v", n, size, err)
	}
	return out.Bytes(), nil
}

// Version is the firmware's version string in UTF-16 with its terminating zero,
// which the Tcg2Pei module measures as the version of the root of trust
// (PcdFirmwareVersionString). The module is built with it as its only string.
func (c *Code) Version() ([]byte, error) {
	f := c.PEI.File(tcg2Pei)
	if f == nil {
		return nil, fail(ReasonUnmeasured, "it has no Tcg2Pei module: use a build with support for TPM 2.0, as in Debian's package ovmf")
	}
	code, err := f.section(sectionPE32)
	if err != nil {
		return nil, err
	}
	var found []byte
	for i := 0; i+1 < len(code); {
		n := 0
		for j := i; j+1 < len(code) && code[j] >= 0x20 && code[j] < 0x7f && code[j+1] == 0; j += 2 {
			n += 2
		}
		end := i + n
		if n < 2*minVersion || n > 2*maxVersion || end+2 > len(code) || code[end] != 0 || code[end+1] != 0 {
			i += max(n, 1)
			continue
		}
		if found != nil {
			return nil, fail(ReasonMissing, "Tcg2Pei has more than one string")
		}
		found = code[i : end+2]
		i = end + 2
	}
	if found == nil {
		return nil, fail(ReasonMissing, "Tcg2Pei has no version string")
	}
	return found, nil
}

// Characters of a version string, to tell it from code that looks like text.
const (
	minVersion = 4
	maxVersion = 128
)

// The PEI core runs in place, out of the very volume that is measured, and
// caches there the I/O port of the ACPI power management timer
// (OvmfPkg/Library/AcpiTimerLib/BaseAcpiTimerLib.c, mAcpiTimerIoAddr). On q35 it
// is ICH9's PMBASE as OVMF programs it (OvmfPkg/Include/IndustryStandard/
// Q35MchIch9.h, ICH9_PMBASE_VALUE) plus the timer's offset.
const timerPort = 0x600 + 8

// MeasuredPEI is the PEI volume as it is in memory when it is measured, on a q35
// machine. It differs from the flash's by the variable named at timerPort. The
// variable is found by the one instruction that stores a constant there: the
// library's branch for Cloud Hypervisor, whose port is the same.
func (c *Code) MeasuredPEI() ([]byte, error) {
	var core *section
	for _, f := range c.PEI.Files {
		if f.Type != fileTypePEICore {
			continue
		}
		sections, err := parseSections(f.body)
		if err != nil {
			return nil, err
		}
		for _, s := range sections {
			if s.kind == sectionPE32 && core == nil {
				core = &section{s.kind, s.body, f.offset + s.offset}
			}
		}
	}
	if core == nil {
		return nil, fail(ReasonMissing, "no PEI core")
	}
	at, err := timerVariable(core)
	if err != nil {
		return nil, err
	}
	out := bytes.Clone(c.PEI.Data)
	binary.LittleEndian.PutUint32(out[at:], timerPort)
	return out, nil
}

// timerVariable finds where in the volume the PEI core stores the timer's port.
func timerVariable(core *section) (int, error) {
	// mov dword ptr [rip+disp32], timerPort
	const length = 10
	imm := binary.LittleEndian.AppendUint32(nil, timerPort)
	found := -1
	for i := 0; i+length <= len(core.body); i++ {
		if core.body[i] != 0xc7 || core.body[i+1] != 0x05 || !bytes.Equal(core.body[i+6:i+length], imm) {
			continue
		}
		at := i + length + int(int32(binary.LittleEndian.Uint32(core.body[i+2:])))
		if at < 0 || at+4 > len(core.body) || binary.LittleEndian.Uint32(core.body[at:]) != 0 || (found >= 0 && found != at) {
			return 0, fail(ReasonMissing, "the PEI core stores the ACPI timer's port somewhere unexpected")
		}
		found = at
	}
	if found < 0 {
		return 0, fail(ReasonMissing, "the PEI core does not cache the ACPI timer's port")
	}
	return core.offset + found, nil
}
