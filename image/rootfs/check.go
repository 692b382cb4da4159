// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// interpreters matches the names of programs that run what they are given: shells and interpreters, and multi-call
// programs that contain one.
var interpreters = regexp.MustCompile(`^([abdkz]|mk|pdk|r?ba|da|fi|tc|c)?sh$|^(busybox|toybox|perl|python|ruby|lua|luajit|tclsh|node|php|[gmn]?awk|ed|expect|guile)[0-9.]*$`)

// forbidden matches the names of programs that have no place in the image for another reason than running scripts:
// package managers, ways to log in, compilers, debuggers.
var forbidden = regexp.MustCompile(`^(apt|apt-get|dpkg|rpm|snap|sshd|dropbear|telnetd|agetty|getty|login|su|sudo|sulogin|passwd|gcc|cc|clang|ld|as|gdb|strace|make)$`)

// Problems returns what in the tree breaks the promises of the image. With debug, which is for the debug flavour, a
// shell is allowed.
func (t Tree) Problems(debug bool) []string {
	var problems []string
	report := func(p, format string, values ...any) {
		problems = append(problems, fmt.Sprintf("%s (from %s): ", p, t[p].Origin)+fmt.Sprintf(format, values...))
	}
	for _, p := range t.Paths() {
		node := t[p]
		if node.Mode&0o6000 != 0 {
			report(p, "has the setuid or setgid bit")
		}
		if node.Mode&0o002 != 0 && node.Type != tar.TypeSymlink && node.Mode&0o1000 == 0 {
			report(p, "can be written by everybody")
		}
		switch node.Type {
		case tar.TypeReg:
			if bytes.HasPrefix(node.Content, []byte("#!")) {
				report(p, "is a script")
			}
			if node.Mode&0o111 != 0 && !isELF(node.Content) {
				report(p, "is executable but no ELF file")
			}
		case tar.TypeSymlink:
			if _, ok := t.Resolve(p); !ok && !isRuntimePath(linkTarget(p, node.Target)) {
				report(p, "points at %s, which does not exist", node.Target)
			}
		}
		// Whatever the directory: a program, or a link that could be one's name.
		if node.Type != tar.TypeSymlink && !isELF(node.Content) {
			continue
		}
		if interpreters.MatchString(path.Base(p)) && !debug {
			report(p, "is a shell or interpreter")
		}
		if forbidden.MatchString(path.Base(p)) {
			report(p, "has no place in the image")
		}
	}
	return problems
}

// isRuntimePath says whether a path exists only on the running system.
func isRuntimePath(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return slices.Contains([]string{"run", "proc", "sys", "dev", "var", "tmp"}, first)
}

// Executables lists every file that can be executed, with where it came from: all files with an execute bit, and all
// ELF files that are complete programs even without one.
func (t Tree) Executables() []string {
	var list []string
	for _, p := range t.Paths() {
		node := t[p]
		if node.Type != tar.TypeReg || isModule(p) {
			continue
		}
		if node.Mode&0o111 != 0 || isProgram(node.Content) {
			list = append(list, fmt.Sprintf("/%s %s", p, node.Origin))
		}
	}
	return list
}

// isProgram says whether content is an ELF file that names a loader: one that can be run through it.
func isProgram(content []byte) bool {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// CompareExecutables says how the list differs from the golden one; empty means not at all.
func CompareExecutables(golden string, list []string) string {
	var want []string
	for line := range strings.Lines(golden) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			want = append(want, line)
		}
	}
	var difference strings.Builder
	for _, line := range list {
		if !slices.Contains(want, line) {
			fmt.Fprintf(&difference, "+ %s\n", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(list, line) {
			fmt.Fprintf(&difference, "- %s\n", line)
		}
	}
	return difference.String()
}
