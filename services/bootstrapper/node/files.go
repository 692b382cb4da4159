// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Files are those below a folder; below "/", the machine's.
type Files string

// Write implements steps.Files.
func (f Files) Write(path string, content []byte) (steps.Outcome, error) {
	path = filepath.Join(string(f), path)
	old, err := os.ReadFile(path)
	same := err == nil && bytes.Equal(old, content)
	clear(old)
	if same {
		return steps.Skipped, os.Chmod(path, 0o600)
	}
	return steps.Done, journal.Replace(path, content)
}

// Sync writes back everything on the file system that path is on, which is the state disk's.
func Sync(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// empty removes what is in a folder, and leaves the folder: it may be where a file
// system is mounted.
func empty(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(folder, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("empty %s: %w", folder, err)
	}
	return nil
}
