// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Boot is a boot of this machine.
type Boot struct {
	// ID is the kernel's, which kubelet reports too.
	ID string
	// Time is when it was, by the clock as it is now.
	Time time.Time
}

// bootID is where Linux has it.
const bootID = "proc/sys/kernel/random/boot_id"

// CurrentBoot is the boot of the machine whose file system root is.
func CurrentBoot(root string) (Boot, error) {
	id, err := os.ReadFile(filepath.Join(root, bootID))
	if err != nil {
		return Boot{}, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return Boot{}, fmt.Errorf("read the time since the boot: %w", err)
	}
	return Boot{ID: strings.TrimSpace(string(id)), Time: time.Now().Add(-time.Duration(up.Nano()))}, nil
}
