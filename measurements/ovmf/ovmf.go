// SPDX-License-Identifier: Apache-2.0

// Package ovmf takes apart the two flash images of OVMF, EDK II's firmware for
// QEMU: the code, for what firmware measures of itself, and the variable store.
//
// Layout: OvmfPkg/OvmfPkgX64.fdf of EDK II; firmware volumes and files: UEFI
// Platform Initialization Specification 1.8, volume 3, chapters 2 and 3. Only
// what OVMF builds use is accepted. The images come with the image's build, but
// are parsed as if hostile: with limits, without guessing.
package ovmf

import (
	"encoding/binary"
	"fmt"

	"github.com/constellation-os/constellation/measurements/gpt"
)

// Limits, in bytes and elements.
const (
	MaxFlashSize    = 16 << 20 // of one flash image
	maxUnpackedSize = 64 << 20 // of the compressed volumes
	maxFiles        = 4096     // in one volume
	maxSections     = 256      // in one file
)

// Files and volumes of OVMF, by GUID.
var (
	lzmaSection   = gpt.MustParseGUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
	ffs2          = gpt.MustParseGUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
	ffs3          = gpt.MustParseGUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
	tcg2Pei       = gpt.MustParseGUID("a0c98b77-cba5-4bb8-993b-4af6ce33ece4")
	secureBootDxe = gpt.MustParseGUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
)

// FFS file types and section types (PI 1.8 volume 3, sections 3.2.3.1 and 3.2.4).
const (
	fileTypePEICore     = 0x04
	fileTypeVolumeImage = 0x0b
	fileTypePad         = 0xf0
	sectionGUIDDefined  = 0x02
	sectionPE32         = 0x10
	sectionUI           = 0x15
	sectionVolumeImage  = 0x17
)

// Reason classifies why an image was refused.
type Reason string

// Reasons of this package.
const (
	ReasonTruncated   Reason = "truncated"   // a structure runs past the end
	ReasonTooLarge    Reason = "too-large"   // a limit of this package was exceeded
	ReasonVolume      Reason = "volume"      // a firmware volume or file is malformed
	ReasonCompression Reason = "compression" // the compressed volumes cannot be unpacked
	ReasonMissing     Reason = "missing"     // an expected file or section is not there
	ReasonVariables   Reason = "variables"   // the variable store is malformed
	ReasonUnmeasured  Reason = "unmeasured"  // the firmware was built without measuring itself
)

// Error is returned by this package.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "firmware: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// Code is OVMF's code image (OVMF_CODE*.fd).
type Code struct {
	// PEI and DXE are the two firmware volumes that the SEC phase unpacks.
	PEI, DXE *Volume
}

// ParseCode reads a code image and unpacks its volumes.
func ParseCode(flash []byte) (*Code, error) {
	if len(flash) > MaxFlashSize {
		return nil, fail(ReasonTooLarge, "%d bytes of flash, at most %d", len(flash), MaxFlashSize)
	}
	main, err := parseVolume(flash)
	if err != nil {
		return nil, err
	}
	var packed []byte
	for _, f := range main.Files {
		if f.Type != fileTypeVolumeImage || packed != nil {
			continue
		}
		if packed, err = f.section(sectionGUIDDefined); err != nil {
			return nil, err
		}
	}
	if packed == nil {
		return nil, fail(ReasonMissing, "no file with compressed volumes")
	}
	unpacked, err := unpack(packed)
	if err != nil {
		return nil, err
	}
	sections, err := parseSections(unpacked)
	if err != nil {
		return nil, err
	}
	var volumes []*Volume
	for _, s := range sections {
		if s.kind != sectionVolumeImage {
			continue
		}
		v, err := parseVolume(s.body)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	if len(volumes) != 2 {
		return nil, fail(ReasonMissing, "%d compressed volumes, want PEI's and DXE's", len(volumes))
	}
	return &Code{PEI: volumes[0], DXE: volumes[1]}, nil
}

// SecureBoot says whether the firmware was built to enforce Secure Boot.
func (c *Code) SecureBoot() bool { return c.DXE.File(secureBootDxe) != nil }

// Volume is a firmware volume.
type Volume struct {
	// Data are the volume's bytes, header included, as firmware measures them.
	Data []byte
	// Name is the volume's GUID from its extended header, zero if it has none.
	Name  gpt.GUID
	Files []File
}

// File is a file in a volume.
type File struct {
	Name   gpt.GUID
	Type   byte
	body   []byte
	offset int // of body in the volume
}

// File returns the file of a name, nil if the volume lacks it.
func (v *Volume) File(name gpt.GUID) *File {
	for i := range v.Files {
		if v.Files[i].Name == name && v.Files[i].Type != fileTypePad {
			return &v.Files[i]
		}
	}
	return nil
}

// parseVolume reads the volume at the start of data (EFI_FIRMWARE_VOLUME_HEADER,
// PI 1.8 volume 3, section 3.2.1).
func parseVolume(data []byte) (*Volume, error) {
	le := binary.LittleEndian
	if len(data) < 72 {
		return nil, fail(ReasonTruncated, "firmware volume of %d bytes", len(data))
	}
	length, header := le.Uint64(data[32:]), int(le.Uint16(data[48:]))
	if string(data[40:44]) != "_FVH" {
		return nil, fail(ReasonVolume, "no volume signature")
	}
	if fs := gpt.GUID(data[16:32]); fs != ffs2 && fs != ffs3 {
		return nil, fail(ReasonVolume, "file system %s", fs)
	}
	if length > uint64(len(data)) || uint64(header) > length || header < 72 || header%2 != 0 {
		return nil, fail(ReasonTruncated, "volume of %d bytes with a header of %d in %d", length, header, len(data))
	}
	sum := uint16(0)
	for i := 0; i < header; i += 2 {
		sum += le.Uint16(data[i:])
	}
	if sum != 0 {
		return nil, fail(ReasonVolume, "header checksum is off by %#04x", sum)
	}
	v := &Volume{Data: data[:length]}
	at := header
	if ext := int(le.Uint16(data[52:])); ext != 0 {
		if ext < header || ext+20 > int(length) {
			return nil, fail(ReasonVolume, "extended header at %d", ext)
		}
		v.Name = gpt.GUID(data[ext : ext+16])
		size := int64(le.Uint32(data[ext+16:]))
		if size < 20 || int64(ext)+size > int64(length) {
			return nil, fail(ReasonVolume, "extended header of %d bytes", size)
		}
		at = ext + int(size)
	}
	return v, v.parseFiles(at)
}

// parseFiles walks the files, each aligned to 8 bytes, up to the erased rest.
func (v *Volume) parseFiles(at int) error {
	for {
		at = (at + 7) &^ 7
		if at+24 > len(v.Data) || erased(v.Data[at:at+24]) {
			return nil
		}
		if len(v.Files) == maxFiles {
			return fail(ReasonTooLarge, "more than %d files in a volume", maxFiles)
		}
		h := v.Data[at:]
		size, header := uint64(h[20])|uint64(h[21])<<8|uint64(h[22])<<16, 24
		if h[19]&0x01 != 0 { // FFS_ATTRIB_LARGE_FILE
			if len(h) < 32 {
				return fail(ReasonTruncated, "file header at %d", at)
			}
			size, header = binary.LittleEndian.Uint64(h[24:]), 32
		}
		if size < uint64(header) || size > uint64(len(h)) {
			return fail(ReasonTruncated, "file at %d has %d bytes, %d left", at, size, len(h))
		}
		v.Files = append(v.Files, File{Name: gpt.GUID(h[:16]), Type: h[18], body: h[header:size], offset: at + header})
		at += int(size)
	}
}

func erased(b []byte) bool {
	for _, c := range b {
		if c != 0xff {
			return false
		}
	}
	return true
}

// section is a part of a file.
type section struct {
	kind   byte
	body   []byte
	offset int // of body in the parsed data
}

// parseSections reads sections, each aligned to 4 bytes (PI 1.8 volume 3,
// section 3.2.4).
func parseSections(data []byte) ([]section, error) {
	var out []section
	for at := 0; at+4 <= len(data); at = (at + 3) &^ 3 {
		h := data[at:]
		size, header := uint64(h[0])|uint64(h[1])<<8|uint64(h[2])<<16, 4
		if size == 0xffffff {
			if len(h) < 8 {
				return nil, fail(ReasonTruncated, "section header at %d", at)
			}
			size, header = uint64(binary.LittleEndian.Uint32(h[4:])), 8
		}
		if size < uint64(header) || size > uint64(len(h)) {
			return nil, fail(ReasonTruncated, "section at %d has %d bytes, %d left", at, size, len(h))
		}
		if len(out) == maxSections {
			return nil, fail(ReasonTooLarge, "more than %d sections in a file", maxSections)
		}
		out = append(out, section{h[3], h[header:size], at + header})
		at += int(size)
	}
	return out, nil
}

// section returns the body of the file's first section of a kind.
func (f *File) section(kind byte) ([]byte, error) {
	sections, err := parseSections(f.body)
	if err != nil {
		return nil, err
	}
	for _, s := range sections {
		if s.kind == kind {
			return s.body, nil
		}
	}
	return nil, fail(ReasonMissing, "file %s has no section of type %#02x", f.Name, kind)
}

// UI is the file's user interface name, in UTF-16 with its terminating zero.
func (f *File) UI() ([]byte, error) { return f.section(sectionUI) }
