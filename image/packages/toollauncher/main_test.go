// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestEnvironmentIsThatOfNobody(t *testing.T) {
	got := environment("/unpacked", []string{
		"PATH=/bin", "SOURCE_DATE_EPOCH=0", "LANG=de_DE", "LC_TIME=tr_TR", "LD_PRELOAD=x", "TZ=Asia/Tokyo",
		"OPENSSL_CONF=/etc/x", "MTOOLS_NO_VFAT=1", "GCONV_PATH=/x", "GLIBC_TUNABLES=x",
	})
	want := []string{
		"PATH=/bin", "SOURCE_DATE_EPOCH=0",
		"LC_ALL=C", "TZ=UTC", "OPENSSL_CONF=/dev/null", "MTOOLSRC=/dev/null",
		"GCONV_PATH=/unpacked/usr/lib/x86_64-linux-gnu/gconv", "LOCPATH=/unpacked/none",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestFindsProgramBesideItself lays out runfiles as Bazel does and follows them.
func TestFindsProgramBesideItself(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(top, "external", "tools", "root")
	program := filepath.Join(root, "usr", "bin", "tool")
	self := filepath.Join(top, "bin", "tool")
	for _, file := range []string{program, filepath.Join(root, loader)} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(self+".runfiles/_tool", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, self+".runfiles/_tool/tool"); err != nil {
		t.Fatal(err)
	}
	runfiles, err := findRunfiles(self)
	if err != nil || runfiles != self+".runfiles" {
		t.Errorf("runfiles %q, %v", runfiles, err)
	}
	got, err := findRoot(program)
	if err != nil || got != root {
		t.Errorf("root %q, %v", got, err)
	}
	t.Setenv("RUNFILES_DIR", self+".runfiles")
	if runfiles, err = findRunfiles("/nowhere/tool"); err != nil || runfiles != self+".runfiles" {
		t.Errorf("runfiles of RUNFILES_DIR: %q, %v", runfiles, err)
	}
	t.Setenv("RUNFILES_DIR", "")
	if _, err = findRunfiles("/nowhere/tool"); err == nil {
		t.Error("runfiles found where there are none")
	}
	if _, err = findRoot("/nowhere/tool"); err == nil {
		t.Error("a root found where there is none")
	}
}

func TestCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		segment elf.ProgType
		want    []string // before the program
	}{
		"static": {segment: elf.PT_LOAD},
		"dynamic": {segment: elf.PT_INTERP, want: []string{
			"/unpacked/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "--inhibit-cache",
			"--library-path", "/unpacked/usr/lib/x86_64-linux-gnu", "--argv0", "tool",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			program := writeELF(t, test.segment)
			got, err := commandLine("/unpacked", program, "tool", []string{"-x"})
			if err != nil {
				t.Fatal(err)
			}
			if want := append(test.want, program, "-x"); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if _, err := commandLine("/unpacked", "/dev/null", "tool", nil); err == nil {
		t.Error("no error for something that is not a program")
	}
}

// writeELF writes a program of one segment.
func writeELF(t *testing.T, segment elf.ProgType) string {
	t.Helper()
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	var b bytes.Buffer
	for _, part := range []any{header, elf.Prog64{Type: uint32(segment)}} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, b.Bytes(), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}
