// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"strings"
	"testing"
)

const loader = "/lib64/ld-linux-x86-64.so.2"

func executable(t testing.TB, origin string) *Node {
	return &Node{Type: tar.TypeReg, Mode: 0o755, Content: program(t, loader, ""), Origin: origin}
}

// goodTree has nothing to complain about.
func goodTree(t testing.TB) Tree {
	t.Helper()
	tree := Tree{}
	for file, node := range map[string]*Node{
		"usr/bin/service":    executable(t, "service"),
		"usr/lib/libc.so.6":  {Type: tar.TypeReg, Mode: 0o644, Content: program(t, "", "")},
		"etc/hosts":          {Type: tar.TypeReg, Mode: 0o644, Content: []byte("127.0.0.1 localhost\n")},
		"etc/passwd":         {Type: tar.TypeReg, Mode: 0o644, Content: []byte("root:x:0:0:root:/root:\n")},
		"tmp":                {Type: tar.TypeDir, Mode: 0o1777},
		"bin":                {Type: tar.TypeSymlink, Mode: 0o777, Target: "usr/bin"},
		"etc/mtab":           {Type: tar.TypeSymlink, Mode: 0o777, Target: "../proc/self/mounts"},
		"usr/sbin/service-2": {Type: tar.TypeSymlink, Mode: 0o777, Target: "/bin/service"},
	} {
		if err := tree.Add(file, node); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestProblemsOfAGoodTree(t *testing.T) {
	if problems := goodTree(t).Problems(false); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}

// TestProblems puts each thing that the image must not have into a good tree.
func TestProblems(t *testing.T) {
	text := func(mode int64, content string) *Node {
		return &Node{Type: tar.TypeReg, Mode: mode, Content: []byte(content), Origin: "intruder"}
	}
	link := func(target string) *Node {
		return &Node{Type: tar.TypeSymlink, Mode: 0o777, Target: target, Origin: "intruder"}
	}
	for _, test := range []struct {
		name, file, reason string
		node               *Node
	}{
		{"shell", "usr/bin/sh", "is a shell or interpreter", executable(t, "intruder")},
		{"other shell", "usr/bin/rbash", "is a shell or interpreter", executable(t, "intruder")},
		{"shell by another name's link", "usr/bin/dash", "is a shell or interpreter", link("service")},
		{"multi-call program", "usr/bin/busybox", "is a shell or interpreter", executable(t, "intruder")},
		{"interpreter with a version", "usr/bin/python3.13", "is a shell or interpreter", executable(t, "intruder")},
		{"interpreter below libexec", "usr/libexec/tool/perl", "is a shell or interpreter", executable(t, "intruder")},
		{"interpreter where nobody looks", "usr/share/doc/lua5.4", "is a shell or interpreter", executable(t, "intruder")},
		{"package manager", "usr/bin/dpkg", "has no place", executable(t, "intruder")},
		{"ssh server", "usr/sbin/sshd", "has no place", executable(t, "intruder")},
		{"login prompt", "usr/sbin/agetty", "has no place", executable(t, "intruder")},
		{"compiler", "usr/bin/gcc", "has no place", executable(t, "intruder")},
		{"script", "usr/bin/tool", "is a script", text(0o755, "#!/usr/bin/env python\n")},
		{"script that is not executable", "usr/share/tool", "is a script", text(0o644, "#!/bin/sh\n")},
		{"executable text", "etc/tool", "no ELF file", text(0o755, "text")},
		{"setuid", "usr/bin/mount", "setuid or setgid", &Node{Type: tar.TypeReg, Mode: 0o4755, Content: program(t, loader, ""), Origin: "intruder"}},
		{"setgid directory", "usr/shared", "setuid or setgid", &Node{Type: tar.TypeDir, Mode: 0o2755, Origin: "intruder"}},
		{"file that everybody writes", "etc/open", "written by everybody", text(0o666, "text")},
		{"directory that everybody writes", "usr/open", "written by everybody", &Node{Type: tar.TypeDir, Mode: 0o777, Origin: "intruder"}},
		{"link to nowhere", "etc/link", "does not exist", link("nothing")},
		{"link in a circle", "etc/link", "does not exist", link("link")},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := goodTree(t)
			if err := tree.Add(test.file, test.node); err != nil {
				t.Fatal(err)
			}
			problems := strings.Join(tree.Problems(false), "\n")
			if !strings.Contains(problems, test.file+" (from intruder)") || !strings.Contains(problems, test.reason) {
				t.Errorf("problems are %q, want %s: %s", problems, test.file, test.reason)
			}
		})
	}
}

func TestProblemsOfTheDebugFlavour(t *testing.T) {
	tree := goodTree(t)
	if err := tree.Add("usr/bin/busybox", executable(t, "busybox")); err != nil {
		t.Fatal(err)
	}
	if problems := tree.Problems(true); len(problems) > 0 {
		t.Errorf("a shell is refused: %v", problems)
	}
	if err := tree.Add("usr/sbin/sshd", executable(t, "ssh")); err != nil {
		t.Fatal(err)
	}
	if problems := tree.Problems(true); len(problems) != 1 {
		t.Errorf("an ssh server is accepted: %v", problems)
	}
}

func TestExecutables(t *testing.T) {
	tree := goodTree(t)
	// Without an execute bit the loader runs a program all the same.
	hidden := executable(t, "hidden")
	hidden.Mode = 0o644
	if err := tree.Add("usr/share/hidden", hidden); err != nil {
		t.Fatal(err)
	}
	const golden = "# comment\n/usr/bin/service service\n/usr/bin/gone service\n"
	got := CompareExecutables(golden, tree.Executables())
	if want := "+ /usr/share/hidden hidden\n- /usr/bin/gone service\n"; got != want {
		t.Errorf("difference is %q, want %q", got, want)
	}
}
