// SPDX-License-Identifier: Apache-2.0

//go:build guest

package guesttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRunsInAGuest(t *testing.T) {
	if os.Getuid() != 0 || os.Getppid() != 1 && os.Getenv("GO_TEST_WRAP") != "0" {
		t.Errorf("user %d, parent %d; want root's, and the guest's first program or the wrapper", os.Getuid(), os.Getppid())
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(release), "cloud-amd64") {
		t.Errorf("the kernel is %s, not the image's", release)
	}
	modules, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(modules), "dm_mod ") {
		t.Error("dm_mod, on which a module depends that the rule names, is not loaded")
	}
}

func TestScratchDiskIsBlankAndHasItsSize(t *testing.T) {
	device, err := Disk("data")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	size, err := file.Seek(0, 2)
	if err != nil || size != 64<<20 {
		t.Errorf("the disk has %d bytes, %v", size, err)
	}
	if _, err := Disk("other"); err == nil || !strings.Contains(err.Error(), `no disk "other"`) {
		t.Errorf("a disk that the rule does not name: %v", err)
	}
}

func TestProgramOfAPackageMakesAMountableFileSystem(t *testing.T) {
	device, err := Disk("data")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", device).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	folder := t.TempDir()
	if err := unix.Mount(device, folder, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(folder, 0)
	if err := os.WriteFile(filepath.Join(folder, "file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}
