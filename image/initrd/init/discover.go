// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/image/initrd/layout"
	"github.com/constellation-os/constellation/image/verity"
)

// rootParameters is what the measured command line says about the root.
type rootParameters struct {
	hash   verity.RootHash
	blocks uint64
}

// parseCommandLine finds the parameters of the root. Each must be there exactly once: with two, this program and a
// person who reads the command line might believe different ones.
func parseCommandLine(line string) (rootParameters, error) {
	values := map[string]string{}
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		if name != verity.HashParameter && name != verity.BlocksParameter {
			continue
		}
		if _, twice := values[name]; twice {
			return rootParameters{}, fmt.Errorf("kernel command line: %s= is there twice", name)
		}
		values[name] = value
	}
	for _, name := range []string{verity.HashParameter, verity.BlocksParameter} {
		if _, ok := values[name]; !ok {
			return rootParameters{}, fmt.Errorf("kernel command line: %s= is missing", name)
		}
	}
	hash, err := verity.ParseRootHash(values[verity.HashParameter])
	if err != nil {
		return rootParameters{}, fmt.Errorf("kernel command line: %w", err)
	}
	blocks, err := strconv.ParseUint(values[verity.BlocksParameter], 10, 64)
	if err != nil || blocks == 0 || blocks > verity.MaxBlocks {
		return rootParameters{}, fmt.Errorf("kernel command line: %s= is not a number from 1 to %d", verity.BlocksParameter, verity.MaxBlocks)
	}
	return rootParameters{hash: hash, blocks: blocks}, nil
}

// loadModules loads the listed modules in order.
func loadModules(directory string) error {
	list, err := os.ReadFile("/" + layout.ModuleList)
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	for _, name := range strings.Fields(string(list)) {
		file, err := os.Open(path.Join(directory, name))
		if err != nil {
			return fmt.Errorf("open module: %w", err)
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		file.Close()
		// A processor without the instructions that an accelerated hash needs is no reason not to boot.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// partition is a partition that the kernel found.
type partition struct {
	// name is the kernel's name, such as vda2.
	name string
	// device is the device number in the form major:minor.
	device string
}

// waitForPartition waits until the kernel has found the partition.
func waitForPartition(id verity.PartitionID, patience time.Duration) (partition, error) {
	blocks := os.DirFS("/sys/class/block")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		found, ok, err := findPartition(blocks, id)
		if err != nil || ok {
			return found, err
		}
		if time.Now().After(deadline) {
			return partition{}, fmt.Errorf("no disk has a partition with identifier %s after %v; disks and partitions here: %s",
				id, patience, strings.Join(names(blocks), " "))
		}
	}
}

// findPartition looks for the partition in the kernel's list of block devices. If several disks carry the identifier,
// the first by name is taken: at most one content matches the root hash, and a host that attaches a false copy could
// as well have changed the true one.
func findPartition(blocks fs.FS, id verity.PartitionID) (partition, bool, error) {
	for _, name := range names(blocks) {
		content, err := fs.ReadFile(blocks, path.Join(name, "uevent"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // gone again
		}
		if err != nil {
			return partition{}, false, fmt.Errorf("read device %s: %w", name, err)
		}
		values := map[string]string{}
		for line := range strings.Lines(string(content)) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			values[key] = value
		}
		if values["DEVTYPE"] == "partition" && strings.EqualFold(values["PARTUUID"], id.String()) {
			return partition{name: name, device: values["MAJOR"] + ":" + values["MINOR"]}, true, nil
		}
	}
	return partition{}, false, nil
}

func names(blocks fs.FS) []string {
	entries, err := fs.ReadDir(blocks, ".")
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
