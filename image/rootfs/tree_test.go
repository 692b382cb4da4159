// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDeclare(t *testing.T) {
	tree := Tree{}
	for name, content := range map[string]string{"certs/b.crt": "B", "certs/a.crt": "A", "etc/secret": "s", "etc/unwanted": "u"} {
		if err := tree.Add(name, regular([]byte(content), "package")); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Declare(`
# a comment
directory tmp 1777
directory srv/data 0750 7 8   # with owner
link bin usr/bin
empty etc/machine-id 0444
mode etc/secret 0600
remove etc/unwanted
collect etc/all.crt certs/*.crt
`); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range tree.Files() {
		got = append(got, fmt.Sprintf("%s %s %s %s %d%s", f.Path, f.Type, f.Mode, f.Owner, f.Size, f.Target))
	}
	want := []string{
		"/bin link 0777 0:0 0usr/bin", "/etc directory 0755 0:0 0", "/etc/all.crt file 0644 0:0 2",
		"/etc/machine-id file 0444 0:0 0", "/etc/secret file 0600 0:0 1", "/srv directory 0755 0:0 0",
		"/srv/data directory 0750 7:8 0", "/tmp directory 1777 0:0 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
	if content := string(tree["etc/all.crt"].Content); content != "AB" {
		t.Errorf("collected %q, want the files in path order", content)
	}
}

func TestDeclareRefuses(t *testing.T) {
	for _, test := range []struct{ name, text, reason string }{
		{"unknown entry", "socket run/s 0600", "unknown entry"},
		{"too few words", "directory tmp", "unknown entry"},
		{"mode that is none", "directory tmp rwx", "mode"},
		{"owner without a number", "directory tmp 0755 root root", "owner"},
		{"path above the root", "empty ../x 0644", "not below the root"},
		{"file twice", "empty a 0644\nempty a 0644", "comes from"},
		{"file below a file", "empty a 0644\nempty a/b 0644", "not a directory"},
		{"file below a link", "link a b\nempty a/b 0644", "not a directory"},
		{"mode of nothing", "mode a 0644", "no such file"},
		{"removal of nothing", "remove a", "no such file"},
		{"collection of nothing", "collect a b/*", "nothing matches"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := (Tree{}).Declare(test.text); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}

func TestAddOwnReplaces(t *testing.T) {
	tree := Tree{}
	if err := tree.Add("usr/unit", regular([]byte("theirs"), "package")); err != nil {
		t.Fatal(err)
	}
	if err := tree.AddOwn("usr/unit", 0o644, []byte("ours"), "image"); err != nil {
		t.Fatal(err)
	}
	if got := tree["usr/unit"]; string(got.Content) != "ours" || got.Origin != "image" {
		t.Errorf("file is %q of %s", got.Content, got.Origin)
	}
}

func TestWriteTar(t *testing.T) {
	tree := Tree{}
	for _, name := range []string{"b", "a/c", "a-b"} {
		if err := tree.Add(name, regular([]byte(name), "x")); err != nil {
			t.Fatal(err)
		}
	}
	modified := time.Unix(1234, 0)
	var first, second bytes.Buffer
	for _, out := range []io.Writer{&first, &second} {
		if err := tree.WriteTar(out, modified); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same tree differ")
	}
	var names []string
	r := tar.NewReader(&first)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(modified) || header.Uid != 0 || header.Uname != "" {
			t.Errorf("%s has time %v and owner %d %q", header.Name, header.ModTime, header.Uid, header.Uname)
		}
		names = append(names, header.Name)
	}
	if diff := cmp.Diff([]string{"./", "./a/", "./a-b", "./a/c", "./b"}, names); diff != "" {
		t.Errorf("names differ (-want +got):\n%s", diff)
	}
}
