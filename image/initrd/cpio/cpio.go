// SPDX-License-Identifier: Apache-2.0

// Package cpio writes the archives that Linux unpacks as its first root.
package cpio

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// File types of [Entry.Mode], as in stat(2).
const (
	Directory = 0o040000
	Regular   = 0o100000
	Link      = 0o120000
)

// Entry is one file of the archive. All entries belong to root and have the modification time 0.
type Entry struct {
	// Path is clean and relative to the root.
	Path string
	// Mode is a file type and permission bits.
	Mode uint32
	// Content is what a regular file holds, or where a symbolic link points.
	Content []byte
}

// Write encodes entries in the "newc" format that Linux unpacks (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). Entries are sorted by path, which also puts each
// directory before its content, and inode numbers count up, so that equal entries give equal bytes. Archives can be
// joined: Linux unpacks one after the other.
func Write(entries []Entry) ([]byte, error) {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	var out bytes.Buffer
	for i, e := range entries {
		if e.Path == "" || e.Path != path.Clean(e.Path) || path.IsAbs(e.Path) || strings.HasPrefix(e.Path, "..") {
			return nil, fmt.Errorf("path %q is not a clean relative path", e.Path)
		}
		if i > 0 && entries[i-1].Path == e.Path {
			return nil, fmt.Errorf("path %q is there twice", e.Path)
		}
		if int64(len(e.Content)) > 1<<32-1 {
			return nil, fmt.Errorf("%s: too large for the archive format", e.Path)
		}
		writeEntry(&out, uint32(i+1), e)
	}
	writeEntry(&out, 0, Entry{Path: "TRAILER!!!"})
	return out.Bytes(), nil
}

func writeEntry(out *bytes.Buffer, inode uint32, e Entry) {
	links := uint32(1)
	if e.Mode&0o170000 == Directory {
		links = 2
	}
	out.WriteString("070701")
	for _, field := range [13]uint32{
		inode, e.Mode, 0, 0, links, 0, uint32(len(e.Content)),
		0, 0, 0, 0, // major and minor number of the device that holds the file and that the file is
		uint32(len(e.Path) + 1), 0,
	} {
		fmt.Fprintf(out, "%08x", field)
	}
	out.WriteString(e.Path)
	out.WriteByte(0)
	pad(out)
	out.Write(e.Content)
	pad(out)
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
