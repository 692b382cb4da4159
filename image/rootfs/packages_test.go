// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type file struct {
	name    string
	kind    byte
	mode    int64
	target  string
	content []byte
}

// pack makes a Debian package of the files.
func pack(t testing.TB, files ...file) io.Reader {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, f := range files {
		header := &tar.Header{Name: "./" + f.name, Typeflag: f.kind, Mode: f.mode, Linkname: f.target, Size: int64(len(f.content))}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBufferString("!<arch>\n")
	for _, member := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"data.tar", data.Bytes()}} {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", member.name, 0, 0, 0, "100644", len(member.content), member.content)
	}
	return out
}

func builder(t testing.TB, selection string) *Builder {
	t.Helper()
	s, err := ParseSelection(selection)
	if err != nil {
		t.Fatal(err)
	}
	return NewBuilder(s)
}

func TestSelection(t *testing.T) {
	b := builder(t, "[tool] # why\nusr/bin/tool mode=0755\nusr/share/tool/**\n[other]\netc/other.*\n")
	if err := b.AddPackage("tool", pack(t,
		file{name: "usr/bin/", kind: tar.TypeDir, mode: 0o755},
		file{name: "usr/bin/tool", kind: tar.TypeReg, mode: 0o4755, content: []byte("tool")},
		file{name: "usr/bin/again", kind: tar.TypeLink, target: "./usr/bin/tool"},
		file{name: "usr/share/tool/a/b", kind: tar.TypeReg, mode: 0o644, content: []byte("b")},
		file{name: "usr/share/tool/same", kind: tar.TypeLink, target: "./usr/bin/tool"},
		file{name: "usr/share/doc/tool", kind: tar.TypeReg, mode: 0o644},
	)); err != nil {
		t.Fatal(err)
	}
	if err := b.AddPackage("other", pack(t, file{name: "etc/other.conf", kind: tar.TypeReg, mode: 0o640})); err != nil {
		t.Fatal(err)
	}
	if err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, info := range b.Tree.Files() {
		if info.Type != "directory" {
			got = append(got, fmt.Sprintf("%s %s %d %s", info.Path, info.Mode, info.Size, info.Origin))
		}
	}
	want := []string{
		"/etc/other.conf 0640 0 other", "/usr/bin/tool 0755 4 tool",
		"/usr/share/tool/a/b 0644 1 tool", "/usr/share/tool/same 0000 4 tool",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
}

func TestSelectionRefuses(t *testing.T) {
	for _, test := range []struct{ name, text, reason string }{
		{"pattern before a package", "usr/bin/tool", "before the first"},
		{"broken pattern", "[a]\nusr/[", "broken"},
		{"absolute pattern", "[a]\n/usr/bin/tool", "not below the root"},
		{"unknown option", "[a]\nusr/bin/tool owner=1", "unknown option"},
		{"mode that is none", "[a]\nusr/bin/tool mode=rwx", "unknown option"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := ParseSelection(test.text); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}

// TestFinish: a file that an update moves, or a package that is missing, must not go unnoticed.
func TestFinish(t *testing.T) {
	moved := builder(t, "[tool]\nusr/bin/tool\n")
	if err := moved.AddPackage("tool", pack(t, file{name: "usr/sbin/tool", kind: tar.TypeReg})); err != nil {
		t.Fatal(err)
	}
	if err := moved.Finish(); err == nil || !strings.Contains(err.Error(), "[tool] usr/bin/tool") {
		t.Errorf("error is %v, want one that names the pattern", err)
	}
	missing := builder(t, "[tool]\n")
	if err := missing.Finish(); err == nil || !strings.Contains(err.Error(), "names the package tool") {
		t.Errorf("error is %v, want one that names the package", err)
	}
}

func TestLibraries(t *testing.T) {
	const dir = "usr/lib/x86_64-linux-gnu/"
	library := func(name string, needed ...string) file {
		return file{name: dir + name, kind: tar.TypeReg, mode: 0o644, content: program(t, "", "", needed...)}
	}
	b := builder(t, "[tool]\nusr/bin/tool\n")
	if err := b.AddPackage("tool", pack(t, file{
		name: "usr/bin/tool", kind: tar.TypeReg, mode: 0o755,
		content: program(t, loader, "/"+dir+"systemd", "libone.so.1", "libprivate.so"),
	})); err != nil {
		t.Fatal(err)
	}
	if err := b.AddPackage("libs", pack(t,
		library("libone.so.1.2", "libtwo.so"), library("libtwo.so"), library("libunused.so"),
		library("systemd/libprivate.so"), library("ld-linux-x86-64.so.2"),
		file{name: dir + "libone.so.1", kind: tar.TypeSymlink, target: "libone.so.1.2"},
	)); err != nil {
		t.Fatal(err)
	}
	if err := b.AddLibraries(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range b.Tree.Paths() {
		if name, ok := strings.CutPrefix(p, dir); ok && b.Tree[p].Type != tar.TypeDir {
			got = append(got, name)
		}
	}
	want := []string{"ld-linux-x86-64.so.2", "libone.so.1", "libone.so.1.2", "libtwo.so", "systemd/libprivate.so"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("libraries differ (-want +got):\n%s", diff)
	}
}

func TestLibraryIsMissing(t *testing.T) {
	b := builder(t, "[tool]\nusr/bin/tool\n")
	if err := b.AddPackage("tool", pack(t, file{
		name: "usr/bin/tool", kind: tar.TypeReg, content: program(t, "", "", "libgone.so.7"),
	})); err != nil {
		t.Fatal(err)
	}
	err := b.AddLibraries()
	if err == nil || !strings.Contains(err.Error(), "usr/bin/tool of tool: needs the library libgone.so.7") {
		t.Errorf("error is %v, want one that says who needs what", err)
	}
}
