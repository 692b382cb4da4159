// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package rebuild

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// launchVariable makes this test's program launch another one under the second build's circumstances.
const launchVariable = "CONSTELLATION_REBUILD_LAUNCH"

// otherUser is who the second build runs as.
const otherUser = 4711

// isolate gives a command another host name, another user and a process group of its own.
func isolate(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS,
		// The files stay those of the user who runs the test.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: otherUser, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: otherUser, HostID: os.Getgid(), Size: 1}},
		// To set the host name; launch gives it up.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
}

// launch replaces this process by a command.
func launch(command []string) error {
	if err := unix.Sethostname([]byte("second-build")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	if os.Getuid() != otherUser {
		return fmt.Errorf("running as user %d", os.Getuid())
	}
	unix.Umask(0o077)
	if err := useOneProcessor(); err != nil {
		return fmt.Errorf("use one processor: %w", err)
	}
	os.Unsetenv(launchVariable)
	return unix.Exec(command[0], command, os.Environ())
}

func useOneProcessor() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	for cpu := 0; ; cpu++ {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
	}
}

// copySource copies the source tree, without what Bazel and git keep there, to another file system if there is one.
func copySource(t *testing.T, workspace string) string {
	t.Helper()
	place := "/dev/shm"
	if unix.Access(place, unix.W_OK) != nil {
		place = os.TempDir()
	}
	target := filepath.Join(temporary(t, place, "constellation-"), "another-place")
	var paths []string
	err := filepath.WalkDir(workspace, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if filepath.Dir(path) == workspace && (entry.Name() == ".git" || strings.HasPrefix(entry.Name(), "bazel-")) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// File systems that list files in the order of their creation now list them in reverse.
	slices.Reverse(paths)
	dates := map[string]time.Time{}
	for _, path := range paths {
		name, err := filepath.Rel(workspace, path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := copyFile(path, filepath.Join(target, name))
		if err != nil {
			t.Fatalf("copy source: %v", err)
		}
		if info.Mode().IsRegular() {
			dates[filepath.Join(target, name)] = info.ModTime().AddDate(1, 0, 0)
		}
	}
	for path, date := range dates {
		if err := os.Chtimes(path, date, date); err != nil {
			t.Fatal(err)
		}
	}
	return target
}

func copyFile(source, target string) (fs.FileInfo, error) {
	info, err := os.Lstat(source)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return nil, err
	}
	switch {
	case info.IsDir():
		return info, os.MkdirAll(target, 0o700)
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(source)
		if err != nil {
			return nil, err
		}
		return info, os.Symlink(link, target)
	default:
		data, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		return info, os.WriteFile(target, data, 0o600|info.Mode()&0o100)
	}
}

// temporary makes a folder that goes when the test ends, with all that is in it.
func temporary(t *testing.T, place, prefix string) string {
	t.Helper()
	folder, err := os.MkdirTemp(place, prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Go's module cache has read-only folders.
		filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}
