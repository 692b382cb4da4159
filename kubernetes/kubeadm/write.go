// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Write writes all files below a root, "/" on a node: each of them whole or not at
// all, and for root's eyes only. Files of an earlier run are replaced.
func (f Files) Write(root string) error {
	for _, path := range slices.Sorted(maps.Keys(f)) {
		if err := replace(filepath.Join(root, path), f[path]); err != nil {
			return fmt.Errorf("write the configuration of kubeadm: %w", err)
		}
	}
	return nil
}

func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	// What is on the state disk is there after a power cut, or the old file is.
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
