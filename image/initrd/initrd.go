// SPDX-License-Identifier: Apache-2.0

// Package initrd builds the archive that the kernel unpacks as its first root.
//
// The archive holds one program, /init (package init below), and the kernel modules that it needs to reach the real
// root, uncompressed and in loading order. There is no shell, no udev, no systemd and no configuration in it.
//
// The bytes are a function of the inputs alone: entries are sorted, owners and times are fixed, and the compressor
// runs single-threaded.
package initrd

import (
	"fmt"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/constellation-os/constellation/image/initrd/cpio"
	"github.com/constellation-os/constellation/image/initrd/layout"
	"github.com/constellation-os/constellation/image/kernelmodule"
)

// Part says what the bytes of an archive are for.
type Part struct {
	// Path is the file's path in the archive.
	Path string `json:"path"`
	// Size is the file's size in bytes.
	Size int `json:"size"`
	// Compressed is the size in bytes that the file alone takes when compressed; the sum over all files is a little
	// more than the archive, which is compressed as a whole.
	Compressed int `json:"compressed"`
}

// Build returns the compressed archive and what it is made of.
func Build(init []byte, modules []kernelmodule.Module) ([]byte, []Part, error) {
	entries := []cpio.Entry{
		{Path: layout.InitPath, Mode: cpio.Regular | 0o755, Content: init},
		// Mount points. The kernel has no devtmpfs on an initial root by itself.
		{Path: "dev", Mode: cpio.Directory | 0o755},
		{Path: "proc", Mode: cpio.Directory | 0o755},
		{Path: "sys", Mode: cpio.Directory | 0o755},
		{Path: layout.Root, Mode: cpio.Directory | 0o755},
		{Path: layout.ModuleDirectory, Mode: cpio.Directory | 0o755},
	}
	var list strings.Builder
	for _, module := range modules {
		name := path.Base(module.Path)
		entries = append(entries, cpio.Entry{
			Path: path.Join(layout.ModuleDirectory, name), Mode: cpio.Regular | 0o644, Content: module.Content,
		})
		list.WriteString(name + "\n")
	}
	entries = append(entries, cpio.Entry{Path: layout.ModuleList, Mode: cpio.Regular | 0o644, Content: []byte(list.String())})

	archive, err := cpio.Write(entries)
	if err != nil {
		return nil, nil, err
	}
	compress, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("make compressor: %w", err)
	}
	defer compress.Close()
	var parts []Part
	for _, e := range entries {
		if len(e.Content) > 0 {
			parts = append(parts, Part{Path: e.Path, Size: len(e.Content), Compressed: len(compress.EncodeAll(e.Content, nil))})
		}
	}
	return compress.EncodeAll(archive, nil), parts, nil
}
