// SPDX-License-Identifier: Apache-2.0

// Package uki assembles a unified kernel image: systemd's UEFI stub with the kernel, the initrd, the command line and
// the identity of the system as additional PE sections (the UAPI group's Unified Kernel Image specification).
//
// It does what ukify does for an unsigned image, without Python, and is a function of its inputs alone: no time
// stamps, no tools' versions. The order of the added sections is fixed here; the order in which the stub measures
// them is the stub's own and is package measurements' business.
//
// Trust boundary: stub and kernel come from locked packages. What does not look like such a stub is refused instead
// of repaired.
//
// Not guaranteed: signatures. Secure Boot is not used on the qemu machine; a signer would append to this image.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Contents are the parts of an image.
type Contents struct {
	// Stub is systemd's UEFI stub, linuxx64.efi.stub.
	Stub []byte
	// Kernel is the Linux image with its EFI stub.
	Kernel []byte
	// Initrd is the archive for the kernel's first root.
	Initrd []byte
	// CommandLine is the kernel command line, without a final NUL or newline.
	CommandLine string
	// OSRelease is the content of os-release(5).
	OSRelease []byte
	// Release is the kernel's version as uname -r prints it.
	Release string
}

// Offsets and constants of the PE format (Microsoft's "PE Format", sections "COFF File Header", "Optional Header"
// and "Section Table").
const (
	offsetPEPointer   = 0x3c
	coffHeaderSize    = 24 // with the signature
	sectionHeaderSize = 40

	magicPE32Plus       = 0x20b
	subsystemEFI        = 10
	machineAMD64        = 0x8664
	directorySecurity   = 4
	nxCompatible        = 0x0100
	sectionCode         = 0x00000020
	sectionInitialised  = 0x00000040
	sectionReadable     = 0x40000000
	optionalHeaderFixed = 112 // up to the data directories

	// MaxPart is the largest part, in bytes, that is accepted.
	MaxPart = 256 << 20
)

// ErrStub says that the stub is not one that can be extended.
var ErrStub = errors.New("not a usable UEFI stub")

type section struct {
	name string
	data []byte
	kind uint32
}

// Assemble returns the image.
func Assemble(c Contents) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	image, err := parseStub(c.Stub)
	if err != nil {
		return nil, err
	}
	kernel, err := parse(c.Kernel)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	// A kernel that is not ready for non-executable data pages must not run in an image that claims to be.
	if kernel.dllCharacteristics()&nxCompatible == 0 {
		image.setDLLCharacteristics(image.dllCharacteristics() &^ nxCompatible)
	}
	for _, s := range []section{
		{".osrel", c.OSRelease, sectionInitialised},
		{".cmdline", []byte(c.CommandLine), sectionInitialised},
		{".uname", []byte(c.Release), sectionInitialised},
		{".initrd", c.Initrd, sectionInitialised},
		{".linux", c.Kernel, sectionCode},
	} {
		if err := image.add(s); err != nil {
			return nil, err
		}
	}
	return image.bytes, nil
}

func (c Contents) check() error {
	for name, size := range map[string]int{
		"stub": len(c.Stub), "kernel": len(c.Kernel), "initrd": len(c.Initrd),
		"command line": len(c.CommandLine), "os-release": len(c.OSRelease), "kernel release": len(c.Release),
	} {
		if size == 0 || size > MaxPart {
			return fmt.Errorf("%s: size of %d bytes is not between 1 and %d", name, size, MaxPart)
		}
	}
	for _, r := range c.CommandLine {
		if r < 0x20 || r > 0x7e {
			return fmt.Errorf("command line has the character %q; the stub measures it as UTF-16 text, only printable ASCII is safe", r)
		}
	}
	return nil
}

// image is a PE file whose headers have been checked.
type image struct {
	bytes    []byte
	coff     int // offset of the COFF header, behind the signature
	optional int // offset of the optional header
	table    int // offset of the section table
}

var le = binary.LittleEndian

func parse(raw []byte) (*image, error) {
	if len(raw) < 0x40 || string(raw[:2]) != "MZ" {
		return nil, errors.New("not a PE file: no MZ header")
	}
	start := int(le.Uint32(raw[offsetPEPointer:]))
	if start > len(raw)-coffHeaderSize-optionalHeaderFixed || string(raw[start:start+4]) != "PE\x00\x00" {
		return nil, errors.New("not a PE file: no PE signature")
	}
	i := &image{bytes: slices.Clone(raw), coff: start + 4, optional: start + coffHeaderSize}
	optionalSize := int(le.Uint16(raw[i.coff+16:]))
	i.table = i.optional + optionalSize
	if le.Uint16(raw[i.coff:]) != machineAMD64 || optionalSize < optionalHeaderFixed ||
		le.Uint16(raw[i.optional:]) != magicPE32Plus || le.Uint16(raw[i.optional+68:]) != subsystemEFI {
		return nil, errors.New("not a 64-bit x86 UEFI application")
	}
	if i.table+i.sections()*sectionHeaderSize > len(raw) {
		return nil, errors.New("section table is truncated")
	}
	return i, nil
}

// parseStub makes a copy of the stub that sections can be added to.
func parseStub(stub []byte) (*image, error) {
	i, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStub, err)
	}
	if i.sections() == 0 || i.sectionAlignment() == 0 || i.fileAlignment() == 0 {
		return nil, fmt.Errorf("%w: no sections or no alignment", ErrStub)
	}
	if le.Uint32(i.bytes[i.coff+8:]) != 0 {
		return nil, fmt.Errorf("%w: it has a symbol table", ErrStub)
	}
	if le.Uint32(i.bytes[i.optional+108:]) > directorySecurity &&
		le.Uint32(i.bytes[i.optional+optionalHeaderFixed+8*directorySecurity:]) != 0 {
		return nil, fmt.Errorf("%w: it is signed", ErrStub)
	}
	for n := range i.sections() {
		header := i.header(n)
		if le.Uint32(header[20:])%i.fileAlignment() != 0 || le.Uint32(header[16:])%i.fileAlignment() != 0 {
			return nil, fmt.Errorf("%w: section %d is not aligned in the file", ErrStub, n)
		}
	}
	if uint32(len(i.bytes))%i.fileAlignment() != 0 {
		return nil, fmt.Errorf("%w: its size is not aligned", ErrStub)
	}
	return i, nil
}

func (i *image) sections() int                     { return int(le.Uint16(i.bytes[i.coff+2:])) }
func (i *image) sectionAlignment() uint32          { return le.Uint32(i.bytes[i.optional+32:]) }
func (i *image) fileAlignment() uint32             { return le.Uint32(i.bytes[i.optional+36:]) }
func (i *image) headersSize() int                  { return int(le.Uint32(i.bytes[i.optional+60:])) }
func (i *image) dllCharacteristics() uint16        { return le.Uint16(i.bytes[i.optional+70:]) }
func (i *image) setDLLCharacteristics(bits uint16) { le.PutUint16(i.bytes[i.optional+70:], bits) }

func (i *image) header(n int) []byte {
	start := i.table + n*sectionHeaderSize
	return i.bytes[start : start+sectionHeaderSize]
}

// add appends a section behind all others, in the file as in memory.
func (i *image) add(s section) error {
	count := i.sections()
	end := i.table + (count+1)*sectionHeaderSize
	if end > i.headersSize() || end > len(i.bytes) {
		return fmt.Errorf("%w: no room for the header of section %s", ErrStub, s.name)
	}
	for n := range count {
		header := i.header(n)
		if string(header[:8]) == string(paddedName(s.name)) {
			return fmt.Errorf("%w: it has a section %s already", ErrStub, s.name)
		}
		if offset := le.Uint32(header[20:]); offset != 0 && int(offset) < end {
			return fmt.Errorf("%w: no room for the header of section %s", ErrStub, s.name)
		}
	}
	last := i.header(count - 1)
	address := align(le.Uint32(last[12:])+le.Uint32(last[8:]), i.sectionAlignment())
	rawSize := align(uint32(len(s.data)), i.fileAlignment())

	header := i.header(count)
	clear(header)
	copy(header, paddedName(s.name))
	le.PutUint32(header[8:], uint32(len(s.data)))
	le.PutUint32(header[12:], address)
	le.PutUint32(header[16:], rawSize)
	le.PutUint32(header[20:], uint32(len(i.bytes)))
	le.PutUint32(header[36:], s.kind|sectionReadable)

	le.PutUint16(i.bytes[i.coff+2:], uint16(count+1))
	le.PutUint32(i.bytes[i.optional+56:], align(address+uint32(len(s.data)), i.sectionAlignment())) // SizeOfImage
	le.PutUint32(i.bytes[i.optional+64:], 0)                                                        // CheckSum, not used by UEFI
	size := le.Uint32(i.bytes[i.optional+8:])                                                       // SizeOfInitializedData
	le.PutUint32(i.bytes[i.optional+8:], size+rawSize)

	i.bytes = append(i.bytes, s.data...)
	i.bytes = append(i.bytes, make([]byte, int(rawSize)-len(s.data))...)
	return nil
}

func paddedName(name string) []byte {
	padded := make([]byte, 8)
	copy(padded, name)
	return padded
}

func align(value, to uint32) uint32 { return (value + to - 1) / to * to }
