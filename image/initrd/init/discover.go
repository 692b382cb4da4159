// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/image/initrd/layout"
	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/gpt"
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
func waitForPartition(id gpt.GUID, patience time.Duration) (partition, error) {
	blocks := os.DirFS("/sys/class/block")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if found, ok := findPartition(blocks, readTable, id); ok {
			return found, nil
		}
		if time.Now().After(deadline) {
			return partition{}, fmt.Errorf("no disk has a partition with identifier %s after %v; disks and partitions here: %s",
				id, patience, strings.Join(names(blocks), " "))
		}
	}
}

// findPartition looks through the tables of all disks and returns the kernel's device for the partition. If several
// disks carry the identifier, the first by name is taken: at most one content matches the root hash, and a host that
// attaches a false copy could as well have changed the true one. A disk that cannot be read or has no whole table is
// passed over, it may belong to somebody else.
func findPartition(blocks fs.FS, read func(disk string, size int64) (*gpt.Table, error), id gpt.GUID) (partition, bool) {
	all := names(blocks)
	for _, disk := range all {
		if uevent(blocks, disk)["DEVTYPE"] != "disk" {
			continue
		}
		table, err := read(disk, int64(number(blocks, disk, "size"))*sysfsSector)
		if err != nil {
			continue
		}
		index := slices.IndexFunc(table.Partitions, func(p gpt.Partition) bool { return p.ID == id })
		if index < 0 {
			continue
		}
		first, size := table.Partitions[index].Offset()/sysfsSector, table.Partitions[index].Size()/sysfsSector
		for _, name := range all {
			values := uevent(blocks, name)
			if values["DEVTYPE"] == "partition" && strings.HasPrefix(name, disk) &&
				number(blocks, name, "start") == uint64(first) && number(blocks, name, "size") == uint64(size) {
				return partition{name: name, device: values["MAJOR"] + ":" + values["MINOR"]}, true
			}
		}
	}
	return partition{}, false
}

// sysfsSector is the unit, in bytes, of sizes and positions in sysfs, whatever the disk's own sectors are.
const sysfsSector = 512

func readTable(disk string, size int64) (*gpt.Table, error) {
	if size == 0 {
		return nil, fs.ErrNotExist // an empty drive or unused loop device
	}
	file, err := os.Open("/dev/" + disk)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return gpt.Parse(file, size)
}

// uevent reads the kernel's description of a device; it is empty when the device is gone.
func uevent(blocks fs.FS, name string) map[string]string {
	values := map[string]string{}
	content, err := fs.ReadFile(blocks, path.Join(name, "uevent"))
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[key] = value
	}
	return values
}

// number reads one of the kernel's numbers about a device; it is 0 when the device is gone.
func number(blocks fs.FS, name, attribute string) uint64 {
	content, err := fs.ReadFile(blocks, path.Join(name, attribute))
	if err != nil {
		return 0
	}
	value, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64)
	if err != nil {
		return 0
	}
	return value
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
