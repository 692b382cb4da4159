// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// collect removes sets other than the ones named, content that none of these needs, and what was left unfinished.
// Programs that run keep running.
func collect(root string, blobs *store, current, previous string) error {
	sets := filepath.Join(root, setsDir)
	entries, err := os.ReadDir(sets)
	if err != nil {
		return err
	}
	if previous == "" { // nothing was switched: all that is there stays
		previous = otherThan(current, entries)
	}
	needed := map[string]bool{}
	for _, entry := range entries {
		digest := "sha256:" + entry.Name()
		if digest == current || digest == previous {
			if err := addNeeded(needed, blobs, filepath.Join(sets, entry.Name())); err == nil {
				continue
			} else if digest == current {
				return err
			}
			// The previous one is damaged: of no use to anybody.
		}
		if err := os.RemoveAll(filepath.Join(sets, entry.Name())); err != nil {
			return err
		}
	}
	if err := removeExcept(blobs.blobs, needed); err != nil {
		return err
	}
	return removeExcept(blobs.partial, nil)
}

// otherThan is the set that is there besides the current one, if it is one only.
func otherThan(current string, entries []fs.DirEntry) string {
	other := ""
	for _, entry := range entries {
		digest := "sha256:" + entry.Name()
		if digest == current || !componentset.IsDigest(digest) {
			continue
		}
		if other != "" {
			return ""
		}
		other = digest
	}
	return other
}

func addNeeded(needed map[string]bool, blobs *store, dir string) error {
	set, err := readSet(dir)
	if err != nil {
		return err
	}
	for _, c := range set.Images() {
		m, err := readManifest(blobs, c)
		if err != nil {
			return err
		}
		needed[oci.Hex(c.Digest)] = true
		for _, d := range m.Blobs() {
			needed[oci.Hex(string(d.Digest))] = true
		}
	}
	return nil
}

func removeExcept(dir string, needed map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if needed[entry.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeUnfinished removes folders of sets that an earlier call did not finish.
func removeUnfinished(sets string) error {
	entries, err := os.ReadDir(sets)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), newPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(sets, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// inode tells two names of one file from two files.
func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
