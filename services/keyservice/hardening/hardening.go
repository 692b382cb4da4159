// SPDX-License-Identifier: Apache-2.0

// Package hardening keeps a process that holds keys from leaving them behind: no
// core dump, no other process of the same user that reads its memory. It does
// not protect from root.
package hardening

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NoDumps makes the process undumpable (prctl(2), PR_SET_DUMPABLE) and sets the
// limit of core dumps to zero.
func NoDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
