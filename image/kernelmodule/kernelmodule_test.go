// SPDX-License-Identifier: Apache-2.0

package kernelmodule

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// module makes the smallest ELF file with a .modinfo section.
func module(t testing.TB, info string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.shstrtab\x00"
	var out bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: uint64(64 + len(info) + len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))},
	}
	for _, part := range []any{header, []byte(info), []byte(names), sections} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestParse(t *testing.T) {
	plain := module(t, "license=GPL\x00depends=dm-mod,dm-bufio\x00name=dm_verity\x00")
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := Module{
		Name: "dm_verity", Path: "usr/lib/modules/6/dm-verity.ko", Content: plain,
		Depends: []string{"dm_mod", "dm_bufio"},
	}
	for p, content := range map[string][]byte{
		"usr/lib/modules/6/dm-verity.ko":    plain,
		"usr/lib/modules/6/dm-verity.ko.xz": packed.Bytes(),
	} {
		got, err := Parse(p, content)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", p, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		name, path, reason string
		content            []byte
	}{
		{"another file", "a.txt", "not a kernel module's name", nil},
		{"no ELF", "a.ko", "parse module", []byte("text")},
		{"no xz", "a.ko.xz", "decompress", []byte("text")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Parse(test.path, test.content); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}

func TestLoadOrder(t *testing.T) {
	modules := map[string]Module{
		"top":  {Name: "top", Depends: []string{"left", "right"}},
		"left": {Name: "left", Depends: []string{"base", "linked_in"}}, "right": {Name: "right", Depends: []string{"base"}},
		"base": {Name: "base"}, "round": {Name: "round", Depends: []string{"about"}}, "about": {Name: "about", Depends: []string{"round"}},
	}
	lookup := func(name string) (Module, error) {
		if m, ok := modules[name]; ok {
			return m, nil
		}
		return Module{}, errors.New("no module " + name)
	}
	builtin := Builtin([]byte("kernel/fs/linked-in.ko\n"))
	for _, test := range []struct {
		name, reason string
		wanted, want []string
	}{
		{"dependencies first, each once", "", []string{"right", "top"}, []string{"base", "right", "left", "top"}},
		{"part of the kernel", "", []string{"linked-in"}, nil},
		{"cycle", "depends on itself", []string{"round"}, nil},
		{"unknown", "no module nothing", []string{"nothing"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			order, err := LoadOrder(test.wanted, lookup, builtin)
			if test.reason != "" {
				if err == nil || !strings.Contains(err.Error(), test.reason) {
					t.Fatalf("error is %v, want one about %q", err, test.reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, m := range order {
				names = append(names, m.Name)
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Errorf("order differs (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(module(f, "depends=a,b\x00"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, content []byte) {
		_, _ = Parse("m.ko", content) // any error will do; a panic will not
		_, _ = Parse("m.ko.xz", content)
	})
}
