// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command init is the only program of the initrd: it opens the measured root and hands over to it.
//
// It loads the kernel modules that lie beside it, waits for the two partitions whose identifiers follow from the
// root hash, opens them with dm-verity, mounts the EROFS file system read-only, switches the root and executes
// systemd. It is all there is between the kernel and the root: no shell, no configuration, no network.
//
// Trust boundary. Trusted are the kernel, this program and the kernel command line, all of which are measured before
// they run. Disks are not trusted: whoever controls them can make the boot fail, and nothing else. What is taken from
// them is only where the partitions are; a partition with the right identifier and the wrong content does not match
// the root hash, and the kernel panics at the first wrong block that is read (panic_on_corruption). It panics as well
// at the first block that cannot be read (panic_on_error): else a host could choose, file by file, which parts of the
// measured root are there, and leave out a unit's sandbox or a setting of the kernel.
// The superblock in front of the hash tree is never read. The root hash does not cover it, and a forged one could
// choose another hash algorithm, salt, block size or tree height; those are constants here (package verity), and the
// number of blocks comes from the command line.
//
// Not guaranteed: availability, and freshness. That the root is the newest is decided by who verifies the
// measurements. A block that is never read is never checked.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/devicemapper"
	"github.com/constellation-os/constellation/image/initrd/layout"
	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/gpt"
)

const (
	root    = "/" + layout.Root
	systemd = "/usr/lib/systemd/systemd"
	// patience is how long the partitions may take to appear. Devices show up within a second; a cloud's network
	// disk on a busy host has been known to take tens.
	patience = 60 * time.Second
	// reading is how long a failure stays on the console before the kernel's panic follows it.
	reading = 2 * time.Second
)

func main() {
	signal.Ignore()
	err := boot()
	// Only a failure gets here: success replaces this program. The first process must not return, its end is a
	// kernel panic, and panic= on the command line then restarts the machine.
	fmt.Fprintf(os.Stderr, "\nconstellation: cannot boot: %v\nconstellation: there is no rescue shell; the machine stops here\n", err)
	time.Sleep(reading)
	os.Exit(1)
}

func boot() error {
	if err := mountKernelFilesystems(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read command line: %w", err)
	}
	wanted, err := parseCommandLine(string(line))
	if err != nil {
		return err
	}
	if err := loadModules("/" + layout.ModuleDirectory); err != nil {
		return err
	}
	dataID, hashID := wanted.hash.PartitionIDs()
	data, err := waitForPartition(gpt.FromUUID(dataID), patience)
	if err != nil {
		return fmt.Errorf("root partition: %w", err)
	}
	hash, err := waitForPartition(gpt.FromUUID(hashID), patience)
	if err != nil {
		return fmt.Errorf("hash tree of the root partition: %w", err)
	}
	if err := mountRoot(wanted, data, hash); err != nil {
		return err
	}
	logf("root %s with hash tree %s is verified while it is read", data.name, hash.name)
	return switchRoot()
}

func mountRoot(wanted rootParameters, data, hash partition) error {
	_, minor, err := devicemapper.CreateReadOnly(devicemapper.Table{
		Name:       "root",
		UUID:       "CRYPT-VERITY-" + wanted.hash.String()[:32] + "-root",
		Sectors:    wanted.blocks * verity.BlockSize / 512,
		Target:     "verity",
		Parameters: verity.Table(wanted.hash, wanted.blocks, data.device, hash.device) + " 2 panic_on_corruption panic_on_error",
	})
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	device := fmt.Sprintf("/dev/dm-%d", minor)
	if err := unix.Mount(device, root, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mount root from %s: %w", device, err)
	}
	return nil
}

func mountKernelFilesystems() error {
	for _, mount := range []struct {
		kind, path string
		flags      uintptr
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	} {
		if err := unix.Mount(mount.kind, mount.path, mount.kind, mount.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", mount.path, err)
		}
	}
	return nil
}

// switchRoot makes the mounted root the root of everything and executes its systemd. The files of the initrd are
// deleted first: they would otherwise stay in memory, out of reach, as long as the machine runs.
func switchRoot() error {
	for _, path := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(path, root+path, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the root: %w", path, err)
		}
	}
	for _, path := range []string{"/" + layout.ModuleDirectory, "/" + layout.InitPath, "/.extra"} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("free the initrd: %w", err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	err := unix.Exec(systemd, []string{systemd}, nil)
	return fmt.Errorf("execute %s: %w", systemd, err)
}

// logf tells people on the console and keeps the message in the kernel's log. Nothing depends on it, so that failing
// to write is no failure to boot.
func logf(format string, values ...any) {
	message := fmt.Sprintf("constellation: "+format+"\n", values...)
	fmt.Fprint(os.Stdout, message)
	if file, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		fmt.Fprint(file, "<5>"+message)
		file.Close()
	}
}
