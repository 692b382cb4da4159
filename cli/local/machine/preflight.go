// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/constellation-os/constellation/measurements"
)

// A MissingToolError says that a program is not installed.
type MissingToolError struct {
	Tool    string // the program
	Package string // the Debian package that brings it
}

func (e *MissingToolError) Error() string {
	return fmt.Sprintf("%s is not installed: install the package %s (apt-get install %s)", e.Tool, e.Package, e.Package)
}

// A MissingFileError says that a file which the machine is made of is not there.
type MissingFileError struct {
	What string // what the file is
	Path string
	Hint string // what to do about it
}

func (e *MissingFileError) Error() string {
	return fmt.Sprintf("%s %s does not exist: %s", e.What, e.Path, e.Hint)
}

// A ResourceError says that this computer has too little of something.
type ResourceError struct {
	Resource string // "memory" or "disk space in DIR"
	NeedMiB  int64
	HaveMiB  int64
}

func (e *ResourceError) Error() string {
	return fmt.Sprintf("not enough %s: %d MiB needed, %d MiB available", e.Resource, e.NeedMiB, e.HaveMiB)
}

// Memory and disk space that a machine takes besides the guest's memory, in MiB.
const (
	emulatorOverheadMiB = 256
	scratchMiB          = 16
)

// tools are the programs that a machine is run by.
type tools struct {
	qemu, swtpm, swtpmSetup string
	swtpmLocalCA            string // may be empty: only needed for endorsement certificates
}

func findTools(c Config) (tools, error) {
	var t tools
	find := func(to *string, program, pkg string) error {
		path, err := exec.LookPath(program)
		if err != nil {
			return &MissingToolError{Tool: program, Package: pkg}
		}
		*to = path
		return nil
	}
	err := find(&t.qemu, "qemu-system-x86_64", "qemu-system-x86")
	if !c.TPM.Absent {
		err = errors.Join(err, find(&t.swtpm, "swtpm", "swtpm"), find(&t.swtpmSetup, "swtpm_setup", "swtpm-tools"))
	}
	if c.TPM.AuthorityDir != "" {
		err = errors.Join(err, findLocalCA(&t))
	}
	return t, err
}

// findLocalCA looks where distributions put a program that is not for people.
func findLocalCA(t *tools) error {
	for _, candidate := range []string{"swtpm_localca", "/usr/share/swtpm/swtpm-localca", "/usr/lib/swtpm/swtpm-localca"} {
		if path, err := exec.LookPath(candidate); err == nil {
			t.swtpmLocalCA = path
			return nil
		}
	}
	return &MissingToolError{Tool: "swtpm_localca", Package: "swtpm-tools"}
}

// Preflight reports everything that keeps a machine from being started: missing
// programs, missing files, too little memory or disk space. The error joins
// [*MissingToolError], [*MissingFileError] and [*ResourceError] values.
func Preflight(c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	_, toolsErr := findTools(c)
	scratch := c.StateDir
	if scratch == "" {
		scratch = os.TempDir()
	}
	return errors.Join(toolsErr, checkFiles(c),
		CheckMemory(c.Shape, 1), CheckDisk(scratch, scratchMiB))
}

func checkFiles(c Config) error {
	const firmwareHint = "build //image:firmware, or install the package ovmf (apt-get install ovmf) and name its OVMF_CODE_4M.fd and OVMF_VARS_4M.fd"
	files := []MissingFileError{
		{What: "the firmware", Path: c.Firmware.Code, Hint: firmwareHint},
		{What: "the firmware's variable store", Path: c.Firmware.Vars, Hint: firmwareHint},
	}
	if c.Shape.BootDisk() != 0 {
		files = append(files, MissingFileError{What: "the disk image", Path: c.Disk, Hint: "build it with: tools/bazel build //image:qemu"})
	}
	if c.StateDisk != "" {
		files = append(files, MissingFileError{What: "the state disk", Path: c.StateDisk, Hint: "make it, sparse: truncate --size 16G FILE"})
	}
	var all error
	for _, f := range files {
		switch info, err := os.Stat(f.Path); {
		case errors.Is(err, fs.ErrNotExist):
			all = errors.Join(all, &f)
		case err != nil:
			all = errors.Join(all, fmt.Errorf("look at %s: %w", f.What, err))
		case !info.Mode().IsRegular():
			all = errors.Join(all, fmt.Errorf("%s %s is not a regular file", f.What, f.Path))
		}
	}
	return all
}

// CheckMemory says whether so many machines of a shape have room in what this computer
// has left of its memory; if not the error is a [*ResourceError].
func CheckMemory(shape measurements.Machine, machines int) error {
	return checkMemory(int64(machines) * int64(shape.MemoryMiB+emulatorOverheadMiB))
}

func checkMemory(needMiB int64) error {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil // not knowing is no reason to refuse
	}
	if have, ok := availableMemoryMiB(text); ok && have < needMiB {
		return &ResourceError{Resource: "memory", NeedMiB: needMiB, HaveMiB: have}
	}
	return nil
}

// availableMemoryMiB reads the line MemAvailable of /proc/meminfo.
func availableMemoryMiB(meminfo []byte) (int64, bool) {
	s := bufio.NewScanner(bytes.NewReader(meminfo))
	for s.Scan() {
		fields := bytes.Fields(s.Bytes())
		if len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib >> 10, err == nil
		}
	}
	return 0, false
}

// CheckDisk says whether a folder's file system has room for so much; if not the error is
// a [*ResourceError].
func CheckDisk(dir string, needMiB int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return nil // the folder may not exist yet; making it will tell
	}
	have := int64(st.Bavail) * st.Bsize >> 20
	if have < needMiB {
		return &ResourceError{Resource: "disk space in " + dir, NeedMiB: needMiB, HaveMiB: have}
	}
	return nil
}
