// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// program makes a small ELF file that needs the libraries; with an interpreter it is a program, without one a library.
func program(t testing.TB, interpreter, runpath string, needed ...string) []byte {
	t.Helper()
	strings := []byte{0}
	add := func(s string) uint64 {
		at := uint64(len(strings))
		strings = append(append(strings, s...), 0)
		return at
	}
	var dynamic []elf.Dyn64
	for _, name := range needed {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: add(name)})
	}
	if runpath != "" {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: add(runpath)})
	}
	dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NULL)})
	names := "\x00.dynstr\x00.dynamic\x00.shstrtab\x00"
	interp := append([]byte(interpreter), 0)

	const headers = 64 + 56
	stringsAt := uint64(headers + len(interp))
	dynamicAt := stringsAt + uint64(len(strings))
	namesAt := dynamicAt + uint64(16*len(dynamic))
	segment := elf.Prog64{Type: uint32(elf.PT_NULL)}
	if interpreter != "" {
		segment = elf.Prog64{Type: uint32(elf.PT_INTERP), Off: headers, Filesz: uint64(len(interp))}
	}
	var out bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
			Shoff: namesAt + uint64(len(names)), Shentsize: 64, Shnum: 4, Shstrndx: 3,
		},
		segment, interp, strings, dynamic, []byte(names),
		[]elf.Section64{
			{},
			{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: stringsAt, Size: uint64(len(strings))},
			{Name: 9, Type: uint32(elf.SHT_DYNAMIC), Off: dynamicAt, Size: uint64(16 * len(dynamic)), Link: 1, Entsize: 16},
			{Name: 18, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))},
		},
	} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
