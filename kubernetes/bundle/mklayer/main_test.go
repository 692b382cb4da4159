// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/oci"
)

// makeLayer runs the command on these files and declarations.
func makeLayer(t *testing.T, content map[string]string, declarations string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	in := inputs{Packages: []string{}, Selections: []string{}, Declarations: []string{filepath.Join(dir, "declarations")}}
	if err := os.WriteFile(in.Declarations[0], []byte(declarations), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range content {
		source := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		in.Files = append(in.Files, file{Source: source, Path: name, Mode: 0o755, Origin: "test"})
	}
	list, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inputs.json"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "layer.tar.zst")
	if err := run(filepath.Join(dir, "inputs.json"), out); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// program is the header of a static ELF file, and nothing else.
func program(t *testing.T) string {
	t.Helper()
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	}
	var out bytes.Buffer
	if err := binary.Write(&out, binary.LittleEndian, header); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLayer(t *testing.T) {
	content := map[string]string{"usr/bin/tool": program(t)}
	const declarations = "directory tmp 1777\nlink usr/bin/other tool\n"
	layer, err := makeLayer(t, content, declarations)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := makeLayer(t, content, declarations); err != nil || !bytes.Equal(layer, again) {
		t.Errorf("the same inputs give other bytes: %v", err)
	}
	archive, done, err := oci.Decompress(bytes.NewReader(layer), v1.MediaTypeImageLayerZstd)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	var names []string
	if err := oci.Walk(archive, func(name string, header *tar.Header, _ io.Reader) error {
		names = append(names, name)
		if header.ModTime.Unix() != 0 || header.Uid != 0 || (name == "tmp" && header.Mode != 0o1777) {
			t.Errorf("%s: %+v", name, header)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != ". tmp usr usr/bin usr/bin/other usr/bin/tool" {
		t.Errorf("entries %s", got)
	}
}

func TestLayerRefuses(t *testing.T) {
	tool := program(t)
	for name, tc := range map[string]struct {
		content      map[string]string
		declarations string
		says         string
	}{
		"a shell":             {map[string]string{"usr/bin/sh": tool}, "", "is a shell or interpreter"},
		"a shell's link":      {map[string]string{"usr/bin/tool": tool}, "link bin/sh ../usr/bin/tool\n", "is a shell or interpreter"},
		"a script":            {map[string]string{"usr/bin/tool": "#!/usr/bin/tool\n"}, "", "is a script"},
		"a dangling link":     {nil, "link usr/bin/tool missing\n", "which does not exist"},
		"a setuid program":    {map[string]string{"usr/bin/tool": tool}, "mode usr/bin/tool 4755\n", "has the setuid or setgid bit"},
		"a path that goes up": {map[string]string{"../tool": tool}, "", "not below the root"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := makeLayer(t, tc.content, tc.declarations); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}
