// SPDX-License-Identifier: Apache-2.0

// Toollauncher runs a program out of unpacked Debian packages with the loader
// and the libraries of those packages, so that a build tool behaves the same
// whatever C library the machine has, and even if it has none.
//
// It is called by the name of a tool and finds its runfiles as Bazel lays them
// out: beside itself, or where RUNFILES_DIR says. There "_tool/NAME" is the
// program, a link into the unpacked packages. A build action that is given the
// wrapper as executable needs nothing else.
//
// The program sees an environment that does not depend on who builds: locale C,
// time zone UTC, no preloaded libraries, no configuration of OpenSSL, iconv or
// mtools from the machine. Not guaranteed: a library that the packages lack is
// still looked for in the machine's default folders; a test of this package
// checks that none is lacking.
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	loader  = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
	library = "usr/lib/x86_64-linux-gnu"
)

func main() {
	// It returns only if the tool could not be started.
	err := run(os.Args, os.Environ())
	fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
	os.Exit(127)
}

func run(args, environ []string) error {
	name := filepath.Base(args[0])
	runfiles, err := findRunfiles(args[0])
	if err != nil {
		return err
	}
	program, err := filepath.EvalSymlinks(filepath.Join(runfiles, "_tool", name))
	if err != nil {
		return err
	}
	root, err := findRoot(program)
	if err != nil {
		return err
	}
	command, err := commandLine(root, program, name, args[1:])
	if err != nil {
		return err
	}
	err = syscall.Exec(command[0], command, environment(root, environ))
	return fmt.Errorf("run %s: %w", command[0], err)
}

// findRunfiles finds the folder of this wrapper's data files.
func findRunfiles(self string) (string, error) {
	for _, dir := range []string{self + ".runfiles", os.Getenv("RUNFILES_DIR")} {
		if dir == "" {
			continue
		}
		if exists(filepath.Join(dir, "_tool")) {
			return dir, nil
		}
	}
	return "", errors.New("no runfiles found: the tool must be called by the path that Bazel gives it")
}

// findRoot finds the top of the unpacked packages from a program in them.
func findRoot(program string) (string, error) {
	for dir := filepath.Dir(program); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, loader)) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no %s above %s: %w", loader, program, fs.ErrNotExist)
}

// commandLine calls static programs directly and others through their loader.
func commandLine(root, program, name string, args []string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for _, header := range file.Progs {
		if header.Type == elf.PT_INTERP {
			command := []string{
				filepath.Join(root, loader), "--inhibit-cache", "--library-path", filepath.Join(root, library),
				"--argv0", name, program,
			}
			return append(command, args...), nil
		}
	}
	return append([]string{program}, args...), nil
}

func environment(root string, environ []string) []string {
	var kept []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, "LD_"), strings.HasPrefix(name, "LC_"), strings.HasPrefix(name, "OPENSSL_"),
			strings.HasPrefix(name, "MTOOLS"), name == "LANG", name == "LANGUAGE", name == "TZ", name == "GCONV_PATH", name == "LOCPATH",
			name == "GLIBC_TUNABLES":
		default:
			kept = append(kept, variable)
		}
	}
	return append(kept,
		"LC_ALL=C", "TZ=UTC", "OPENSSL_CONF=/dev/null", "MTOOLSRC=/dev/null",
		"GCONV_PATH="+filepath.Join(root, library, "gconv"), "LOCPATH="+filepath.Join(root, "none"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
