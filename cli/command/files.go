// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// standard is how a person names standard input or output instead of a file.
const standard = "-"

// ErrEmpty is in the chain of an error about a file with nothing in it.
var ErrEmpty = errors.New("the file is empty")

// LimitError is in the chain of an error about a file that is too large.
type LimitError struct {
	Path  string
	Limit int64 // in bytes
}

// Error implements error.
func (e *LimitError) Error() string { return fmt.Sprintf("%s: more than %d bytes", e.Path, e.Limit) }

// FromCaller interprets a path that a person typed: under "bazel run" the working
// directory is not theirs.
func FromCaller(path string) string {
	if from := os.Getenv("BUILD_WORKING_DIRECTORY"); from != "" && path != "" && !filepath.IsAbs(path) {
		return filepath.Join(from, path)
	}
	return path
}

// ReadInput reads a file that a person named, bounded by limit bytes; "-" is
// standard input. Errors about its size are ErrEmpty and *LimitError. It returns when the command's context is done, whatever the file is.
func ReadInput(cmd *cobra.Command, path string, limit int64) ([]byte, error) {
	return Interruptible(cmd.Context(), 0, func() ([]byte, error) {
		if path == standard {
			return readBounded(cmd.InOrStdin(), path, limit)
		}
		return ReadFile(FromCaller(path), limit)
	})
}

// ReadFile reads a file, bounded by limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, path, limit)
}

func readBounded(r io.Reader, path string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case int64(len(data)) > limit:
		return nil, &LimitError{path, limit}
	case len(data) == 0:
		return nil, fmt.Errorf("%s: %w", path, ErrEmpty)
	}
	return data, nil
}

// WriteNew writes a file that a person named and that must not exist yet; "-" is
// standard output. A file that could not be written whole is not left behind.
func WriteNew(cmd *cobra.Command, path string, data []byte, mode fs.FileMode) error {
	if path == standard {
		_, err := cmd.OutOrStdout().Write(data)
		return err
	}
	path = FromCaller(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten: remove it, or name another file", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
