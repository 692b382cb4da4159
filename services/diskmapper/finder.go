// SPDX-License-Identifier: Apache-2.0

package diskmapper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Serial is the serial number that a machine's maker gives to the state disk, whatever the kind of disk:
//
//	qemu    -device virtio-blk-pci,drive=…,serial=constellation-state
const Serial = "constellation-state"

// Errors of a Finder.
var (
	// ErrNoDisk says that no disk has the serial number.
	ErrNoDisk = errors.New("there is no state disk")
	// ErrSeveralDisks says that more than one disk has it.
	ErrSeveralDisks = errors.New("there are several state disks")
)

// Finder finds the state disk. It proves nothing: the host gives serial numbers as it likes.
type Finder struct {
	// Blocks is the folder /sys/class/block.
	Blocks fs.FS
	// Serial is the disk's serial number.
	Serial string
	// Patience is how long the disk may take to appear.
	Patience time.Duration
}

// Find returns the disk's device.
func (f *Finder) Find(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Patience)
	defer cancel()
	for {
		name, err := f.look()
		if !errors.Is(err, ErrNoDisk) {
			return name, err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serialFiles are where the kernel shows the serial numbers of virtio, NVMe and SCSI disks.
var serialFiles = []string{"serial", "device/serial", "device/vpd_pg80"}

func (f *Finder) look() (string, error) {
	entries, err := fs.ReadDir(f.Blocks, ".")
	if err != nil {
		return "", fmt.Errorf("list disks: %w", err)
	}
	var found, others []string
	for _, entry := range entries {
		name := entry.Name()
		serial := f.serial(name)
		switch {
		case serial == f.Serial:
			found = append(found, name)
		case serial != "":
			others = append(others, fmt.Sprintf("%s has %q", name, serial))
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: no disk has the serial number %q (%s)", ErrNoDisk, f.Serial, strings.Join(others, ", "))
	case 1:
		return "/dev/" + found[0], nil
	}
	return "", fmt.Errorf("%w: %s have the serial number %q", ErrSeveralDisks, strings.Join(found, " and "), f.Serial)
}

// serial returns a disk's serial number; partitions have none, and what the kernel hides, such as the single paths to an
// NVMe disk that has several, is no disk. A SCSI disk's comes with a header of 4 bytes.
func (f *Finder) serial(name string) string {
	if hidden, err := fs.ReadFile(f.Blocks, path.Join(name, "hidden")); err == nil && strings.TrimSpace(string(hidden)) == "1" {
		return ""
	}
	for _, file := range serialFiles {
		content, err := fs.ReadFile(f.Blocks, path.Join(name, file))
		if err != nil {
			continue
		}
		if path.Base(file) == "vpd_pg80" {
			content = content[min(4, len(content)):]
		}
		return strings.TrimSpace(strings.Trim(string(content), "\x00"))
	}
	return ""
}
