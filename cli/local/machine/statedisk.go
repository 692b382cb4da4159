// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// StateDiskSerial is the serial number by which the image's diskmapper finds the
	// state disk.
	StateDiskSerial = "constellation-state"
	// StateDiskSize is the size of a state disk that was not chosen, in bytes. The
	// file takes only as much room as the machine has written.
	StateDiskSize = 16 << 30
)

// CreateStateDisk makes a blank disk: a sparse file that did not exist. Only its
// owner can read it, though the machine encrypts what it writes.
func CreateStateDisk(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a state disk: %w", err)
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		return fmt.Errorf("make a state disk: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// withStateDisk names the state disk in the folder, and makes it if there is none,
// unless the machine has none or another.
func (c Config) withStateDisk(dir string) (Config, error) {
	if c.Shape.StateDisk() == 0 || c.StateDisk != "" {
		return c, nil
	}
	c.StateDisk = filepath.Join(dir, "disk.raw")
	if err := CreateStateDisk(c.StateDisk, StateDiskSize); err != nil && !errors.Is(err, fs.ErrExist) {
		return c, err
	}
	return c, nil
}
