// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/cli/local/machine"
)

// campaign adds the rare cases.
var campaign = flag.Bool("campaign", false, "run every case")

// Environment variables that say where the artifacts are. Relative paths are
// Bazel's: they begin at the runfiles' root.
const (
	imageEnv      = "CONSTELLATION_IMAGE"
	debugImageEnv = "CONSTELLATION_IMAGE_DEBUG"
	bundleEnv     = "CONSTELLATION_BUNDLE"
	kubectlEnv    = "CONSTELLATION_KUBERNETES" // a program that is kubectl if it is called so
	firmwareEnv   = "CONSTELLATION_FIRMWARE"
	mtoolsEnv     = "MTOOLS"
	dumpEROFSEnv  = "DUMP_EROFS"
)

// TestMain gives the tests a temporary folder of their own and asserts, once they
// are over, that no process and no file is left of any machine.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	for _, name := range []string{imageEnv, debugImageEnv, bundleEnv, firmwareEnv, mtoolsEnv, dumpEROFSEnv} {
		if err := resolve(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	scratch, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	os.Setenv("TMPDIR", scratch)
	// Whatever loses its parent becomes our child, and so cannot hide.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become the parent of orphans:", err)
		return 1
	}
	code := m.Run()
	if err := leftovers(scratch); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: after all tests:", err)
		code = 1
	}
	return code
}

// childEnv makes this test binary a program that runs one machine: its value is
// the disk, the firmware's halves follow as arguments.
const childEnv = "E2E_CHILD_DISK"

// running is what the child prints once its machine runs.
const running = "running"

// child runs a machine until it is interrupted.
func child() int {
	// Bazel's test binaries come with an opinion about SIGTERM; programs do not.
	signal.Reset()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	args := os.Args[len(os.Args)-2:]
	m, err := machine.Start(ctx, machine.Config{
		Disk: os.Getenv(childEnv), Firmware: machine.Firmware{Code: args[0], Vars: args[1]},
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(running)
	<-m.Done()
	return 0
}

// resolve makes a path in the environment absolute.
func resolve(name string) error {
	path := os.Getenv(name)
	if path == "" || filepath.IsAbs(path) || path == filepath.Base(path) {
		return nil
	}
	root := filepath.Join(os.Getenv("TEST_SRCDIR"), os.Getenv("TEST_WORKSPACE"))
	path, err := filepath.Abs(filepath.Join(root, path))
	if err != nil {
		return err
	}
	return os.Setenv(name, path)
}

// patience is how long processes that were told to end may take for it.
const patience = 10 * time.Second

// leftovers returns an error that names what is left of machines: processes that
// are or became children of this one, files in the temporary folder.
func leftovers(scratch string) error {
	found := childless()
	entries, err := os.ReadDir(scratch)
	if err != nil {
		return errors.Join(found, err)
	}
	for _, e := range entries {
		found = errors.Join(found, fmt.Errorf("a file is left: %s", e.Name()))
	}
	return found
}

// childless waits until there is no child left, adopted ones included, and
// returns an error that names them if they take too long.
func childless() error {
	gone := make(chan error, 1)
	go func() { gone <- reapAll() }()
	select {
	case err := <-gone:
		return err
	case <-time.After(patience):
		return fmt.Errorf("processes are left: %s", children())
	}
}

// reapAll waits until there is no child left, adopted ones included.
func reapAll() error {
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// children are the processes whose parent this one is.
func children() string {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	var all []string
	for _, list := range lists {
		pids, _ := os.ReadFile(list) // the thread may have ended
		for _, pid := range strings.Fields(string(pids)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			all = append(all, pid+" "+strings.TrimSpace(string(name)))
		}
	}
	return strings.Join(all, ", ")
}
