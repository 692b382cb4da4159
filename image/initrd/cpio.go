// SPDX-License-Identifier: Apache-2.0

package initrd

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// file types of cpio's mode field, as in stat(2).
const (
	modeDirectory = 0o040000
	modeRegular   = 0o100000
)

// entry is one file of the archive. All entries belong to root and have the modification time 0.
type entry struct {
	path    string
	mode    uint32
	content []byte
}

// writeCPIO encodes entries in the "newc" format that Linux unpacks (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). Entries are sorted by path, which also puts each
// directory before its content, and inode numbers count up, so that equal entries give equal bytes.
func writeCPIO(entries []entry) ([]byte, error) {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	var out bytes.Buffer
	for i, e := range entries {
		if e.path == "" || e.path != path.Clean(e.path) || path.IsAbs(e.path) || strings.HasPrefix(e.path, "..") {
			return nil, fmt.Errorf("path %q is not a clean relative path", e.path)
		}
		if i > 0 && entries[i-1].path == e.path {
			return nil, fmt.Errorf("path %q is there twice", e.path)
		}
		if int64(len(e.content)) > 1<<32-1 {
			return nil, fmt.Errorf("%s: too large for the archive format", e.path)
		}
		writeEntry(&out, uint32(i+1), e)
	}
	writeEntry(&out, 0, entry{path: "TRAILER!!!"})
	return out.Bytes(), nil
}

func writeEntry(out *bytes.Buffer, inode uint32, e entry) {
	links := uint32(1)
	if e.mode&modeDirectory != 0 {
		links = 2
	}
	out.WriteString("070701")
	for _, field := range [13]uint32{
		inode, e.mode, 0, 0, links, 0, uint32(len(e.content)),
		0, 0, 0, 0, // major and minor number of the device that holds the file and that the file is
		uint32(len(e.path) + 1), 0,
	} {
		fmt.Fprintf(out, "%08x", field)
	}
	out.WriteString(e.path)
	out.WriteByte(0)
	pad(out)
	out.Write(e.content)
	pad(out)
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
