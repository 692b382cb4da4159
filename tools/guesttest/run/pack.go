// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/constellation-os/constellation/image/initrd/cpio"
	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

// The guest's test gives up first and says where it was, then this program, then Bazel.
const (
	hostReserve  = 5 * time.Second
	guestReserve = 15 * time.Second
)

// returns maps what the test leaves below wire.Returned, a file or the first element of a path, to where the host
// wants it.
type returns map[string]string

// pack writes the guest's first root: the common part, and one with the request, the test and its files.
func (c *config) pack(to string) (returns, error) {
	tree := map[string]cpio.Entry{}
	back := returns{}
	request := wire.Request{Args: c.arguments(back), Env: environment(os.Environ(), back), Directory: c.folder}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	add(tree, wire.RequestPath, 0o644, text)
	directory(tree, wire.Returned)
	for name := range back {
		if strings.HasSuffix(name, "/") {
			directory(tree, path.Join(wire.Returned, name))
		}
	}
	if err := addFile(tree, wire.BinaryPath, c.Binary); err != nil {
		return nil, err
	}
	directory(tree, path.Join(wire.Runfiles, "_main", c.Package))
	for _, name := range c.Runfiles {
		if err := addFile(tree, path.Join(wire.Runfiles, "_main", name), filepath.Join(c.root, name)); err != nil {
			return nil, err
		}
	}
	entries := make([]cpio.Entry, 0, len(tree))
	for _, entry := range tree {
		entries = append(entries, entry)
	}
	own, err := cpio.Write(entries)
	if err != nil {
		return nil, err
	}
	common, err := os.ReadFile(c.Archive)
	if err != nil {
		return nil, err
	}
	return back, os.WriteFile(to, slices.Concat(common, own), 0o600)
}

func directory(tree map[string]cpio.Entry, p string) {
	for ; p != "."; p = path.Dir(p) {
		tree[p] = cpio.Entry{Path: p, Mode: cpio.Directory | 0o755}
	}
}

func add(tree map[string]cpio.Entry, p string, mode uint32, content []byte) {
	directory(tree, path.Dir(p))
	tree[p] = cpio.Entry{Path: p, Mode: cpio.Regular | mode, Content: content}
}

func addFile(tree map[string]cpio.Entry, p, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a directory: a guest's test takes files only", from)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	add(tree, p, uint32(info.Mode()&0o777), content)
	return nil
}

// fileFlags are the flags of a test that name a file to write.
var fileFlags = []string{"blockprofile", "coverprofile", "cpuprofile", "memprofile", "mutexprofile", "testlogfile", "trace"}

// arguments returns the test's arguments, with files to write moved to where the host gets them from.
func (c *config) arguments(back returns) []string {
	var args []string
	for _, arg := range c.args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		name = strings.TrimPrefix(name, "test.")
		if slices.Contains(fileFlags, name) && value != "" {
			back[name] = value
			arg = "-test." + name + "=/" + path.Join(wire.Returned, name)
		}
		if name == "outputdir" {
			continue
		}
		args = append(args, arg)
	}
	return args
}

// environment returns the test's environment: the host's, but for what only means something on the host.
func environment(host []string, back returns) []string {
	env := []string{
		"PATH=/usr/sbin:/usr/bin", "HOME=/tmp", "TMPDIR=/tmp", "TEST_TMPDIR=/tmp", "LC_ALL=C.UTF-8",
		"TEST_SRCDIR=/" + wire.Runfiles, "RUNFILES_DIR=/" + wire.Runfiles,
	}
	for _, variable := range host {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR", "TEST_TMPDIR", "LC_ALL", "TEST_SRCDIR", "RUNFILES_DIR", "RUNFILES_MANIFEST_FILE",
			"JAVA_RUNFILES", "PYTHON_RUNFILES", "LD_LIBRARY_PATH", "LD_PRELOAD", "PWD", "OLDPWD", configEnv,
			"TEST_PREMATURE_EXIT_FILE", "TEST_WARNINGS_OUTPUT_FILE", "TEST_INFRASTRUCTURE_FAILURE_FILE", "GOCOVERDIR":
			continue
		case "XML_OUTPUT_FILE", "TEST_SHARD_STATUS_FILE":
			back[name] = value
			value = "/" + path.Join(wire.Returned, name)
		case "COVERAGE_DIR", "TEST_UNDECLARED_OUTPUTS_DIR":
			back[name+"/"] = value
			value = "/" + path.Join(wire.Returned, name)
		case "COVERAGE_OUTPUT_FILE":
			value = "/tmp/coverage.dat"
		case "TEST_TIMEOUT":
			if seconds, err := strconv.Atoi(value); err == nil {
				value = strconv.Itoa(max(1, seconds-int(guestReserve/time.Second)))
			}
		}
		env = append(env, name+"="+value)
	}
	return env
}

// place says where the host wants a file that the guest returned; it is empty if nowhere.
func (r returns) place(name string) string {
	if to, ok := r[name]; ok {
		return to
	}
	first, rest, ok := strings.Cut(name, "/")
	if to, wanted := r[first+"/"]; ok && wanted && filepath.IsLocal(rest) {
		return filepath.Join(to, rest)
	}
	return ""
}
