// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Booted is when this machine did, by its clock as it is now.
func Booted() (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, fmt.Errorf("read the time since the boot: %w", err)
	}
	return time.Now().Add(-time.Duration(up.Nano())), nil
}
