// SPDX-License-Identifier: Apache-2.0

// Package image is the command "constellation image": what will an image
// measure, and did a machine measure it.
package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Command makes "image" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Predict, compare and boot operating system images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(predictCommand(), compareCommand(), bootCommand())
	return cmd
}

// readInput reads a file that a person named, bounded by limit bytes; "-" is
// standard input.
func readInput(cmd *cobra.Command, path string, limit int64) ([]byte, error) {
	if path == "-" {
		return readBounded(cmd.InOrStdin(), path, limit)
	}
	f, err := os.Open(fromCaller(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, path, limit)
}

// readFile reads a file, bounded by limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
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
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	case len(data) == 0:
		return nil, fmt.Errorf("%s: %w", path, errors.New("the file is empty"))
	}
	return data, nil
}
