// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package rebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// endOrphans ends what a killed Bazel has left running: as their reaper, this process is the parent of all of it.
func endOrphans() {
	for {
		children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		if err != nil {
			return
		}
		// Orphans go to the main thread.
		for field := range strings.FieldsSeq(string(children)) {
			if pid, err := strconv.Atoi(field); err == nil {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		// What they leave comes here next.
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return
		}
	}
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
	target := filepath.Join(temporary(t, place), "another-place")
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

// temporaryPrefix and the number of the process that made it begin the name of a temporary folder.
const temporaryPrefix = "constellation-second-build-"

// temporary makes a folder that goes when the test ends, with all that is in it, and removes what tests that were
// killed have left.
func temporary(t *testing.T, place string) string {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(place, temporaryPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range old {
		maker, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), temporaryPrefix), "-")
		if pid, err := strconv.Atoi(maker); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			if err := remove(folder); err != nil {
				t.Logf("left by an earlier run: %v", err)
			}
		}
	}
	folder, err := os.MkdirTemp(place, fmt.Sprintf("%s%d-in-another-place-", temporaryPrefix, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// remove removes a folder, though Go's module cache in it is read-only.
func remove(folder string) error {
	err := os.RemoveAll(folder)
	if err == nil {
		return nil
	}
	filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return os.RemoveAll(folder)
}
