// SPDX-License-Identifier: Apache-2.0

package uki

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/measurements/pe"
)

// stub makes a PE file with one section, .sdmagic, and room in its headers for more.
func stub(room int) []byte {
	const peStart, optionalSize = 0x80, 240
	table := peStart + coffHeaderSize + optionalSize
	headers := int(align(uint32(table+(1+room)*sectionHeaderSize), 512))
	if room == 0 {
		headers = table + sectionHeaderSize
	}
	raw := make([]byte, align(uint32(headers), 512)+512)
	copy(raw, "MZ")
	le.PutUint32(raw[offsetPEPointer:], peStart)
	copy(raw[peStart:], "PE\x00\x00")
	le.PutUint16(raw[peStart+4:], machineAMD64)
	le.PutUint16(raw[peStart+6:], 1)
	le.PutUint16(raw[peStart+20:], optionalSize)
	optional := raw[peStart+coffHeaderSize:]
	le.PutUint16(optional, magicPE32Plus)
	le.PutUint32(optional[32:], 4096)
	le.PutUint32(optional[36:], 512)
	le.PutUint32(optional[56:], 8192)
	le.PutUint32(optional[60:], uint32(headers))
	le.PutUint32(optional[64:], 0x1234)
	le.PutUint16(optional[68:], subsystemEFI)
	le.PutUint16(optional[70:], 0x0160)
	le.PutUint32(optional[108:], 16)
	section := raw[table:]
	copy(section, ".sdmagic")
	le.PutUint32(section[8:], 100)
	le.PutUint32(section[12:], 4096)
	le.PutUint32(section[16:], 512)
	le.PutUint32(section[20:], align(uint32(headers), 512))
	return raw
}

func contents() Contents {
	return Contents{
		Stub: stub(8), Kernel: stub(1), Initrd: bytes.Repeat([]byte("initrd"), 1000), CommandLine: "roothash=00 quiet",
		OSRelease: []byte("ID=constellation\n"), Release: "6.12.1",
	}
}

// TestAssemble reads the image back with the parser that predicts its measurement.
func TestAssemble(t *testing.T) {
	c := contents()
	raw, err := Assemble(c)
	if err != nil {
		t.Fatal(err)
	}
	image, err := pe.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ name, content string }{
		{".sdmagic", string(make([]byte, 100))}, {".osrel", string(c.OSRelease)}, {".cmdline", c.CommandLine},
		{".uname", c.Release}, {".initrd", string(c.Initrd)}, {".linux", string(c.Kernel)},
	}
	if len(image.Sections) != len(want) {
		t.Fatalf("%d sections, want %d", len(image.Sections), len(want))
	}
	for i, section := range image.Sections {
		content, err := image.Content(section)
		if err != nil {
			t.Fatal(err)
		}
		if section.Name != want[i].name || string(content) != want[i].content {
			t.Errorf("section %d is %s with %d bytes, want %s with %d", i, section.Name, len(content), want[i].name, len(want[i].content))
		}
	}
	again, err := Assemble(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, again) {
		t.Error("two images of the same contents differ")
	}
}

// TestAssembleNX: the image may claim non-executable data only if the kernel does.
func TestAssembleNX(t *testing.T) {
	for _, test := range []struct {
		name   string
		kernel uint16
		want   uint16
	}{
		{"kernel is ready", 0x0160, 0x0160},
		{"kernel is not", 0x0060, 0x0060},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contents()
			kernel, err := parse(c.Kernel)
			if err != nil {
				t.Fatal(err)
			}
			kernel.setDLLCharacteristics(test.kernel)
			c.Kernel = kernel.bytes
			raw, err := Assemble(c)
			if err != nil {
				t.Fatal(err)
			}
			image, err := parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got := image.dllCharacteristics(); got != test.want {
				t.Errorf("characteristics are %#x, want %#x", got, test.want)
			}
		})
	}
}

func TestAssembleRefuses(t *testing.T) {
	edit := func(raw []byte, offset int, value uint32) []byte {
		raw = bytes.Clone(raw)
		le.PutUint32(raw[offset:], value)
		return raw
	}
	const optional = 0x80 + coffHeaderSize
	for _, test := range []struct {
		name, reason string
		stub         bool // the reason is ErrStub
		change       func(*Contents)
	}{
		{"no initrd", "initrd: size", false, func(c *Contents) { c.Initrd = nil }},
		{"no command line", "command line: size", false, func(c *Contents) { c.CommandLine = "" }},
		{"command line with a newline", "printable ASCII", false, func(c *Contents) { c.CommandLine = "a\nb" }},
		{"command line beyond ASCII", "printable ASCII", false, func(c *Contents) { c.CommandLine = "é" }},
		{"stub is no PE file", "no MZ header", true, func(c *Contents) { c.Stub = []byte(strings.Repeat("x", 999)) }},
		{"stub is cut off", "no PE signature", true, func(c *Contents) { c.Stub = c.Stub[:0x90] }},
		{"stub is for another machine", "not a 64-bit", true, func(c *Contents) { c.Stub = edit(c.Stub, 0x84, 0x0001014c) }},
		{"stub has no alignment", "no alignment", true, func(c *Contents) { c.Stub = edit(c.Stub, optional+36, 0) }},
		{"stub has symbols", "symbol table", true, func(c *Contents) { c.Stub = edit(c.Stub, 0x80+12, 4096) }},
		{"stub is signed", "is signed", true, func(c *Contents) { c.Stub = edit(c.Stub, optional+112+32, 4096) }},
		{"stub without room", "no room", true, func(c *Contents) { c.Stub = stub(0) }},
		{"stub is a UKI already", "already", true, func(c *Contents) { c.Stub, _ = Assemble(contents()) }},
		{"kernel is no EFI program", "kernel: not a PE file", false, func(c *Contents) { c.Kernel = []byte("vmlinux") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contents()
			test.change(&c)
			_, err := Assemble(c)
			if err == nil || !strings.Contains(err.Error(), test.reason) || errors.Is(err, ErrStub) != test.stub {
				t.Errorf("error is %v, want one about %q (stub: %v)", err, test.reason, test.stub)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	got := CommandLine("# why\n\nconsole=ttyS0   quiet # more\n  panic=10\n")
	if want := "console=ttyS0 quiet panic=10"; got != want {
		t.Errorf("command line is %q, want %q", got, want)
	}
}

func FuzzAssemble(f *testing.F) {
	f.Add(stub(8), stub(1))
	f.Add([]byte("MZ"), []byte("MZ"))
	f.Fuzz(func(t *testing.T, stub, kernel []byte) {
		c := contents()
		c.Stub, c.Kernel = stub, kernel
		raw, err := Assemble(c)
		if err == nil && len(raw) < len(stub)+len(kernel) {
			t.Errorf("image of %d bytes from a stub of %d and a kernel of %d", len(raw), len(stub), len(kernel))
		}
	})
}
