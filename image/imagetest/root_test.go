// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package imagetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/image/rootfs"
)

// readRoot reads the archive that the root is made from.
func readRoot(t *testing.T) rootfs.Tree {
	t.Helper()
	tree := rootfs.Tree{}
	archive := tar.NewReader(bytes.NewReader(readArtifact(t, "root.tar")))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return tree
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if name := path.Clean(header.Name); name != "." {
			tree[name] = &rootfs.Node{
				Type: header.Typeflag, Mode: header.Mode, UID: header.Uid, GID: header.Gid,
				Target: header.Linkname, Content: content, Origin: "root.tar",
			}
		}
	}
}

// TestRootHasNoShell looks at names, modes and first bytes only, with rules of its own.
func TestRootHasNoShell(t *testing.T) {
	tree := readRoot(t)
	if len(tree) < 300 {
		t.Fatalf("the root has only %d files", len(tree))
	}
	names := []string{
		"sh", "bash", "dash", "ash", "ksh", "zsh", "busybox", "toybox", "perl", "python", "python3", "awk", "gawk", "mawk",
		"lua", "ruby", "apt", "dpkg", "rpm", "sshd", "agetty", "getty", "login", "su", "sudo", "passwd", "sulogin",
		"systemd-sulogin-shell", "systemd-debug-generator", "systemd-getty-generator", "systemd-ssh-generator",
		"systemd-pcrextend", "systemd-pcrlock", "systemd-tpm2-setup", "systemd-creds", "gcc", "cc", "ld", "gdb",
	}
	for p, node := range tree {
		if slices.Contains(names, path.Base(p)) && p != "etc/passwd" {
			t.Errorf("/%s is there", p)
		}
		if node.Mode&0o7000&^0o1000 != 0 {
			t.Errorf("/%s has mode %o", p, node.Mode)
		}
		if node.Type == tar.TypeReg && bytes.HasPrefix(node.Content, []byte("#!")) {
			t.Errorf("/%s is a script", p)
		}
		if node.UID >= 1000 || node.GID >= 1000 {
			t.Errorf("/%s belongs to %d:%d", p, node.UID, node.GID)
		}
		if strings.Contains(p, "-generator") {
			t.Errorf("/%s is a generator: it would make units of what the host says", p)
		}
	}
}

// TestInjectedShellIsRefused puts a shell into the real root under several names.
func TestInjectedShellIsRefused(t *testing.T) {
	golden, err := os.ReadFile(os.Getenv("GOLDEN_EXECUTABLES"))
	if err != nil {
		t.Fatal(err)
	}
	tree := readRoot(t)
	if problems := tree.Problems(false); len(problems) > 0 {
		t.Fatalf("problems of the root as it is: %v", problems)
	}
	program := tree["usr/bin/crun"]
	if program == nil {
		t.Fatal("no usr/bin/crun in the root")
	}
	for _, name := range []string{"usr/bin/sh", "usr/libexec/constellation/bash", "opt/busybox"} {
		tree[name] = program
		if problems := tree.Problems(false); len(problems) != 1 || !strings.Contains(problems[0], name) {
			t.Errorf("%s: problems are %v", name, problems)
		}
		delete(tree, name)
	}
	// Under an innocent name it is still not on the list.
	tree["usr/share/data.bin"] = &rootfs.Node{Type: tar.TypeReg, Mode: 0o644, Content: program.Content, Origin: "intruder"}
	if got := rootfs.CompareExecutables(string(golden), tree.Executables()); !strings.Contains(got, "+ /usr/share/data.bin intruder\n") {
		t.Errorf("difference from the golden list is %q", got)
	}
}

// masked are the units that a root must refuse by name, whoever asks for them and wherever else they would come from.
var masked = []string{
	"console-getty.service", "container-getty@.service", "debug-shell.service", "emergency.service", "emergency.target",
	"getty@.service", "rescue.service", "rescue.target", "serial-getty@.service", "systemd-pcrextend.socket",
	"systemd-pcrextend@.service", "systemd-pcrfs-root.service", "systemd-pcrfs@.service", "systemd-pcrmachine.service",
	"systemd-pcrphase-initrd.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service",
	"systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service",
}

// TestUnitsThatMustNotRun: units that start shells or extend PCR 11 and 15 while the system runs are masked, and none
// is there that the list has not got.
func TestUnitsThatMustNotRun(t *testing.T) {
	tree := readRoot(t)
	const units = "usr/lib/systemd/system"
	for _, name := range masked {
		if node := tree[path.Join(units, name)]; node == nil || node.Type != tar.TypeSymlink || node.Target != "/dev/null" {
			t.Errorf("%s is not masked", name)
		}
	}
	for p, node := range tree {
		if path.Dir(p) != units {
			continue
		}
		name := path.Base(p)
		shell := strings.HasPrefix(name, "emergency") || strings.HasPrefix(name, "rescue") || strings.Contains(name, "getty") || name == "debug-shell.service"
		measuring := strings.HasPrefix(name, "systemd-pcr") || strings.HasPrefix(name, "systemd-tpm2-setup")
		if (shell || measuring) && (node.Type != tar.TypeSymlink || node.Target != "/dev/null") {
			t.Errorf("%s is neither masked nor absent", name)
		}
		if node.Type == tar.TypeReg && !strings.HasSuffix(name, ".target") && bytes.Contains(node.Content, []byte("OnFailure=emergency")) {
			t.Errorf("%s starts the emergency shell", name)
		}
	}
}

// extract writes the root below dir.
func extract(t *testing.T, dir string) {
	t.Helper()
	tree := readRoot(t)
	for _, p := range tree.Paths() {
		node, file := tree[p], filepath.Join(dir, p)
		var err error
		switch node.Type {
		case tar.TypeDir:
			err = os.MkdirAll(file, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(node.Target, file)
		default:
			err = os.WriteFile(file, node.Content, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
