// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNothingOutlivesItsOwner ends a program that runs a machine in three ways
// and waits for the end of every process that it had started.
func TestNothingOutlivesItsOwner(t *testing.T) {
	for name, how := range map[string]os.Signal{
		"interrupted": os.Interrupt, "terminated": unix.SIGTERM, "killed": os.Kill,
	} {
		t.Run(name, func(t *testing.T) {
			scratch := filepath.Join(t.TempDir(), "tmp")
			if err := os.Mkdir(scratch, 0o700); err != nil {
				t.Fatal(err)
			}
			c := config(t)
			owner := exec.Command(os.Args[0], c.Firmware.Code, c.Firmware.Vars)
			owner.Env = append(os.Environ(), childEnv+"="+c.Disk, "TMPDIR="+scratch)
			owner.Stderr = os.Stderr
			out, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || line != running+"\n" {
				t.Fatalf("the program says %q, %v", line, err)
			}
			if entries, err := os.ReadDir(scratch); err != nil || len(entries) != 1 {
				t.Fatalf("the running machine has %d folders, %v, want 1", len(entries), err)
			}
			if err := owner.Process.Signal(how); err != nil {
				t.Fatal(err)
			}
			_ = owner.Wait() // killed, or ended as it likes
			// QEMU, swtpm and the keeper are now our children, if they live.
			if err := childless(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(scratch)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) > 0 {
				t.Errorf("files are left: %v", entries)
			}
		})
	}
}
