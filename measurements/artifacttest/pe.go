// SPDX-License-Identifier: Apache-2.0

// Package artifacttest makes small stand-ins for the artifacts of a boot: UKIs,
// disks, OVMF images and event logs. They have the layout of the real ones and
// nothing in them runs. Only tests may import it.
package artifacttest

import (
	"encoding/binary"
	"maps"
	"slices"
)

// Section is one section of a PE image.
type Section struct {
	Name    string
	Content []byte
}

const (
	peHeader    = 64
	peOptional  = peHeader + 4 + 20
	optionalLen = 112 + 16*8
	fileAlign   = 512
	memoryAlign = 4096
)

// PE makes an x86-64 PE32+ image, with a certificate table at its end if
// certificate is not nil.
func PE(sections []Section, certificate []byte) []byte {
	le := binary.LittleEndian
	headers := align(peOptional+optionalLen+40*len(sections), fileAlign)
	out := make([]byte, headers)
	copy(out, "MZ")
	le.PutUint32(out[60:], peHeader)
	copy(out[peHeader:], "PE\x00\x00")
	le.PutUint16(out[peHeader+4:], 0x8664)
	le.PutUint16(out[peHeader+6:], uint16(len(sections)))
	le.PutUint16(out[peHeader+20:], optionalLen)
	le.PutUint16(out[peHeader+22:], 0x2022)
	opt := out[peOptional:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], memoryAlign)
	le.PutUint32(opt[36:], fileAlign)
	le.PutUint16(opt[44:], 1) // major image version
	le.PutUint32(opt[60:], uint32(headers))
	le.PutUint32(opt[64:], 0xfeedbeef) // checksum, not part of the digest
	le.PutUint16(opt[68:], 10)         // EFI application
	le.PutUint32(opt[108:], 16)
	address := memoryAlign
	for i, s := range sections {
		h := out[peOptional+optionalLen+40*i:]
		copy(h[:8], s.Name)
		le.PutUint32(h[8:], uint32(len(s.Content)))
		le.PutUint32(h[12:], uint32(address))
		le.PutUint32(h[16:], uint32(align(len(s.Content), fileAlign)))
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], 0x40000040)
		out = append(out, s.Content...)
		out = append(out, make([]byte, align(len(s.Content), fileAlign)-len(s.Content))...)
		address = align(address+max(len(s.Content), 1), memoryAlign)
	}
	le.PutUint32(out[peOptional+56:], uint32(address))
	if certificate != nil {
		table := binary.LittleEndian.AppendUint32(nil, uint32(8+len(certificate)))
		table = binary.LittleEndian.AppendUint16(table, 0x0200)
		table = binary.LittleEndian.AppendUint16(table, 0x0002)
		table = append(table, certificate...)
		table = append(table, make([]byte, align(len(table), 8)-len(table))...)
		le.PutUint32(out[peOptional+112+8*4:], uint32(len(out)))
		le.PutUint32(out[peOptional+112+8*4+4:], uint32(len(table)))
		out = append(out, table...)
	}
	return out
}

// Kernel makes something that passes for a signed kernel.
func Kernel() []byte {
	return PE([]Section{{".setup", []byte("setup code")}, {".text", []byte("kernel code")}}, []byte("signature"))
}

// UKISections are the contents of a UKI's sections, by name.
type UKISections map[string][]byte

// DefaultUKI are the sections that the image's UKI has.
func DefaultUKI() UKISections {
	return UKISections{
		".linux":   Kernel(),
		".initrd":  []byte("an initrd of odd length"),
		".cmdline": []byte("roothash=00 constellation.flavour=test  quiet\n"),
		".osrel":   []byte("ID=constellation\nIMAGE_VERSION=1\n"),
		".uname":   []byte("6.12.0"),
		".sbat":    []byte("sbat,1\n"),
	}
}

// With returns a copy with one section set.
func (s UKISections) With(name string, content []byte) UKISections {
	out := maps.Clone(s)
	out[name] = content
	return out
}

// Without returns a copy without one section.
func (s UKISections) Without(name string) UKISections {
	out := maps.Clone(s)
	delete(out, name)
	return out
}

// StubVersion is the version that UKIs say their stub has.
const StubVersion = "257.13-test"

// Encode makes the UKI.
func (s UKISections) Encode() []byte {
	sections := []Section{{".text", []byte("stub code")}, {".sdmagic", []byte("#### LoaderInfo: systemd-stub " + StubVersion + " ####\x00")}}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		sections = append(sections, Section{name, s[name]})
	}
	return PE(sections, nil)
}

func align(n, to int) int { return (n + to - 1) / to * to }
