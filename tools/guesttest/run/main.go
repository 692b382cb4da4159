// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command run runs a Go test in a guest; see package guesttest. Bazel's rule tells it by the environment what to run;
// for go test -exec it takes flags, and then the test with its arguments.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// configEnv names the file that the rule wrote, relative to the runfiles.
const configEnv = "GUESTTEST_CONFIG"

// config says what the guest consists of.
type config struct {
	Kernel  string `json:"kernel"`
	Archive string `json:"archive"`
	Binary  string `json:"binary"`
	// Runfiles are the test's files: paths relative to the main repository's runfiles.
	Runfiles []string `json:"runfiles"`
	// Package is the test's folder, which it runs in, relative to the same.
	Package string `json:"package"`
	// Disks are scratch disks: name and size.
	Disks  []disk `json:"disks"`
	Memory int    `json:"memory"` // MiB
	CPUs   int    `json:"cpus"`
	TPM    bool   `json:"tpm"`

	begin time.Time
	args  []string
	// folder is the working directory in the guest.
	folder string
	// root is what paths of Runfiles are relative to on the host.
	root string
}

type disk struct {
	Name string `json:"name"`
	Size string `json:"size"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guesttest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(ctx context.Context) (int, error) {
	begin := time.Now()
	c, err := configure()
	if err != nil {
		return 2, err
	}
	deadline := 10 * time.Minute
	if seconds, err := strconv.Atoi(os.Getenv("TEST_TIMEOUT")); err == nil {
		deadline = time.Duration(seconds)*time.Second - hostReserve
	}
	c.begin = begin
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errors.New("the test took too long"))
	defer cancel()
	scratch, err := os.MkdirTemp("", "guesttest-")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(scratch)
	returned, err := c.pack(filepath.Join(scratch, "initrd"))
	if err != nil {
		return 2, err
	}
	return c.boot(ctx, scratch, returned)
}

// configure reads the rule's file, or the command line.
func configure() (*config, error) {
	if path := os.Getenv(configEnv); path != "" {
		return fromRule(path)
	}
	c := &config{}
	var guest string
	flag.StringVar(&guest, "guest", "", "folder with the guest's kernels and guest.cpio: bazel-bin/tools/guesttest/guest")
	flag.IntVar(&c.Memory, "memory", 1024, "MiB")
	flag.IntVar(&c.CPUs, "cpus", 2, "processors")
	flag.BoolVar(&c.TPM, "tpm", false, "give the guest a software TPM")
	flag.Func("disk", "NAME=SIZE: a scratch disk, such as data=100G; can be repeated", func(value string) error {
		name, size, ok := strings.Cut(value, "=")
		if !ok {
			return errors.New("not NAME=SIZE")
		}
		c.Disks = append(c.Disks, disk{name, size})
		return nil
	})
	flag.Parse()
	if guest == "" || flag.NArg() == 0 {
		return nil, errors.New("run it as: run -guest FOLDER [-disk NAME=SIZE] TEST ARGUMENTS")
	}
	c.Kernel, c.Archive = filepath.Join(guest, "vmlinux"), filepath.Join(guest, "guest.cpio")
	if c.TPM {
		c.Kernel = filepath.Join(guest, "vmlinuz")
	}
	c.Binary, c.args = flag.Arg(0), flag.Args()[1:]
	c.folder, c.root = "/test/runfiles/_main", "."
	// As go test does: the test finds testdata in its working directory.
	_ = filepath.WalkDir("testdata", func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			c.Runfiles = append(c.Runfiles, path)
		}
		return nil // a package without testdata
	})
	return c, nil
}

func fromRule(path string) (*config, error) {
	root := filepath.Join(os.Getenv("TEST_SRCDIR"), os.Getenv("TEST_WORKSPACE"))
	if os.Getenv("TEST_SRCDIR") == "" { // bazel run
		root = "."
	}
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return nil, err
	}
	c := &config{args: os.Args[1:], folder: "/test/runfiles/_main", root: root}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range []*string{&c.Kernel, &c.Archive, &c.Binary} {
		*p = filepath.Join(root, *p)
	}
	return c, nil
}
