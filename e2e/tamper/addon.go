// SPDX-License-Identifier: Apache-2.0

package tamper

import (
	"bytes"
	"encoding/binary"
)

// Addon makes an add-on for systemd-stub that adds to the kernel command line: a
// PE image without code, with the sections .cmdline and .sdmagic (systemd's
// docs/BOOT_LOADER_SPECIFICATION and man page systemd-stub).
func Addon(commandLine string) []byte {
	const alignment = 4096
	sections := []struct {
		name    string
		content []byte
	}{
		{".sdmagic", []byte("#### LoaderInfo: systemd-addon 257 ####\x00")},
		{".sbat", []byte("sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\x00")},
		{".cmdline", append([]byte(commandLine), 0)},
	}
	var b bytes.Buffer
	put := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f) // fixed-size fields into memory
		}
	}
	put([]byte("MZ"), [58]byte{}, uint32(64), []byte("PE\x00\x00"))
	// COFF header: AMD64, executable image.
	put(uint16(0x8664), uint16(len(sections)), uint32(0), uint32(0), uint32(0), uint16(240), uint16(0x0022))
	// PE32+ optional header: EFI application without entry point.
	put(uint16(0x20b), [2]byte{}, [3]uint32{}, uint32(0), uint32(0), uint64(0),
		uint32(alignment), uint32(alignment), [12]byte{}, uint32(0),
		uint32(alignment*(1+len(sections))), uint32(alignment), uint32(0),
		uint16(10), uint16(0x160), [4]uint64{}, uint32(0), uint32(16), [16]uint64{})
	for i, s := range sections {
		name := [8]byte{}
		copy(name[:], s.name)
		put(name, uint32(len(s.content)), uint32(alignment*(i+1)), uint32(alignment), uint32(alignment*(i+1)),
			[12]byte{}, uint32(0x40000040)) // initialised data, readable
	}
	for i, s := range sections {
		b.Write(make([]byte, alignment*(i+1)-b.Len()))
		b.Write(s.content)
	}
	b.Write(make([]byte, alignment*(1+len(sections))-b.Len()))
	return b.Bytes()
}
