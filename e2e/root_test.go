// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/e2e/tamper"
)

// superblock is where EROFS has what every mount reads first, in bytes.
const superblock = 1024

// service is a program of the root that is first read when its unit starts.
const service = "/usr/bin/measurementreader"

// TestBadRootStopsTheMachine changes the root or the disk under it. Measurements
// cannot show that, the root hash does: the kernel stops at the first bad block,
// whether it is read early or late, wrong or not readable at all.
func TestBadRootStopsTheMachine(t *testing.T) {
	tests := []struct {
		name string
		// spoil returns what the console must show.
		spoil func(t *testing.T, c *machine.Config, disk *tamper.Disk) (signs []string, err error)
		// never is what the console must not show.
		never []string
	}{
		{
			name: "one bit of the superblock",
			spoil: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) ([]string, error) {
				return []string{"data block 0 is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"}, disk.Root(superblock)
			},
			never: []string{"Measurements of this boot", "systemd[1]", "Welcome to"},
		},
		{
			name: "one bit of a service",
			spoil: func(t *testing.T, _ *machine.Config, disk *tamper.Disk) ([]string, error) {
				at := extent(t, service)
				return []string{fmt.Sprintf("data block %d is corrupted", at/4096), "Kernel panic - not syncing: dm-verity device corrupted"}, disk.Root(at)
			},
			never: []string{"Measurements of this boot"},
		},
		{
			name: "one bit of the hash tree",
			spoil: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) ([]string, error) {
				return []string{"metadata block 1 is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"}, disk.Tree(4096)
			},
			never: []string{"Measurements of this boot", "systemd[1]", "Welcome to"},
		},
		{
			name: "a service that cannot be read",
			spoil: func(t *testing.T, c *machine.Config, disk *tamper.Disk) ([]string, error) {
				start, err := disk.RootOffset()
				if err != nil {
					return nil, err
				}
				failRead(t, start+extent(t, service))
				return []string{"Kernel panic - not syncing: dm-verity device has I/O error"}, nil
			},
			never: []string{"Measurements of this boot"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			disk, err := tamper.CopyDisk(c.Disk, filepath.Join(t.TempDir(), "disk.raw"))
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			c.Disk = disk.Path
			signs, err := tc.spoil(t, &c, disk)
			if err != nil {
				t.Fatal(err)
			}
			console := &transcript{}
			c.Console = console
			_, err = boot(t, c)
			var failed *machine.BootError
			if !errors.As(err, &failed) || !errors.Is(err, machine.ErrEnded) || failed.Exit.Reason != "guest-reset" {
				t.Errorf("the boot ended with %v, want the guest to reset itself", err)
			}
			for _, sign := range signs {
				if !console.contains(sign) {
					t.Errorf("the console does not show %q", sign)
				}
			}
			for _, sign := range tc.never {
				if console.contains(sign) {
					t.Errorf("the console shows %q: the root was used", sign)
				}
			}
		})
	}
}

// firstExtent is the first line of dump.erofs's table of a file's extents.
var firstExtent = regexp.MustCompile(`(?m)^ +0: .*: +(\d+)\.\.`)

// extent returns where in the root's file system a file begins, in bytes.
func extent(t *testing.T, path string) int64 {
	t.Helper()
	image := filepath.Join(folder(t, imageEnv), "root.erofs")
	output, err := exec.Command(os.Getenv(dumpEROFSEnv), "--path="+path, "-e", image).CombinedOutput()
	match := firstExtent.FindSubmatch(output)
	if err != nil || match == nil {
		t.Fatalf("dump.erofs: %v\n%s", err, output)
	}
	at, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// failRead lets every read of the disk that touches one sector fail, in all
// machines that the test starts: QEMU's own fault injector comes between the disk's
// file and the machine.
func failRead(t *testing.T, at int64) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	var script bytes.Buffer
	fmt.Fprintf(&script, `#!/bin/sh
for argument do
  shift
  case $argument in
    *'"node-name":"image"'*)
      file=${argument#*'"filename":"'}
      argument='{"driver":"raw","node-name":"image","read-only":true,"file":{"driver":"blkdebug",
        "inject-error":[{"event":"none","iotype":"read","errno":5,"sector":%d,"once":false}],
        "image":{"driver":"file","filename":"'"${file%%%%\"*}"'"}}}' ;;
  esac
  set -- "$@" "$argument"
done
exec %s "$@"
`, at/512, qemu)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(qemu)), script.Bytes(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
