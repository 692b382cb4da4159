// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/constellation-os/constellation/measurements/strictjson"
)

// maxFile is the size of a journal's file, in bytes.
const maxFile = 1 << 20

// File is a store in a file.
type File string

// Load implements [Store].
func (f File) Load() (*Record, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", f, maxFile)
	}
	var r Record
	if err := strictjson.Decode(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	if r.Format != Format || r.Cluster == "" {
		return nil, fmt.Errorf("%s is not a journal of format %s", f, Format)
	}
	return &r, nil
}

// Save implements [Store].
func (f File) Save(r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return Replace(string(f), append(data, '\n'))
}

// Replace writes a file, root's alone, whole: whatever happens, it is there with its
// old or its new content. Folders that are missing are made.
func Replace(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// One attempt at a time: what a killed one left is overwritten.
	next := filepath.Join(dir, "."+filepath.Base(path)+".next")
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, bytes.NewReader(content))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return SyncFolder(dir)
}

// SyncFolder brings a folder's entries to its disk.
func SyncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
