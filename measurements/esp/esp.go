// SPDX-License-Identifier: Apache-2.0

// Package esp reads EFI system partitions: FAT file systems (Microsoft FAT
// Specification, UEFI Specification 2.10, section 13.3), read-only.
//
// Whatever lies beside the boot program can take part in a boot (systemd-stub
// picks up credentials, add-ons and extensions), so callers get the list of all
// files and decide about each. The file system is parsed as hostile: with
// limits, loops in it are noticed, and what firmware (EDK II, FatPkg) and other
// readers may read differently is refused. Names are ASCII.
package esp

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Limits of a file system.
const (
	maxFiles    = 1024 // directories count too
	maxDepth    = 8
	maxDirSize  = 256 << 10
	maxFileSize = 512 << 20
	maxFATSize  = 64 << 20
)

// Reason classifies why a file system was refused.
type Reason string

// Reasons of this package.
const (
	ReasonTruncated Reason = "truncated" // the partition ends before its content
	ReasonTooLarge  Reason = "too-large" // a limit of this package was exceeded
	ReasonNotFAT    Reason = "not-fat"   // no FAT16 or FAT32 file system
	ReasonChain     Reason = "chain"     // a file's clusters loop, end early or leave the disk
	ReasonName      Reason = "name"      // a name that readers may take for different ones
	ReasonDuplicate Reason = "duplicate" // two entries of a directory have a name in common
	ReasonMissing   Reason = "missing"   // no such file
)

// Error is returned by this package.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "EFI system partition: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// File is a regular file. Paths have the long names, separated by "/".
type File struct {
	Path  string
	Size  int64
	first uint32
}

// FS is an opened file system.
type FS struct {
	// Files are all regular files, in directory order.
	Files []File

	disk     io.ReaderAt
	cluster  int64 // bytes
	data     int64 // offset of cluster 2
	clusters uint32
	fat      []byte
	wide     bool // FAT32
	dirs     int
}

// Open reads the file system of a partition of size bytes.
func Open(disk io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 512)
	if size < 512 {
		return nil, fail(ReasonTruncated, "%d bytes", size)
	}
	if err := readAt(disk, b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats, rootEntries := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total, fatSectors := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	// What says FAT32 to firmware (EDK II, FatOpenDevice): no size of the table here.
	wide := fatSectors == 0
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if wide {
		fatSectors = int64(le.Uint32(b[36:]))
	}
	if b[510] != 0x55 || b[511] != 0xaa || sector != 512 || perCluster == 0 || perCluster&(perCluster-1) != 0 ||
		reserved == 0 || fats == 0 || fats > 2 || fatSectors == 0 {
		return nil, fail(ReasonNotFAT, "the boot sector is not one of FAT with sectors of 512 bytes")
	}
	rootSectors := (rootEntries*entrySize + sector - 1) / sector
	first := reserved + fats*fatSectors + rootSectors
	if total*sector > size || first >= total {
		return nil, fail(ReasonTruncated, "%d sectors, the partition has %d", total, size/sector)
	}
	if fatSectors*sector > maxFATSize {
		return nil, fail(ReasonTooLarge, "allocation table of %d sectors", fatSectors)
	}
	fs := &FS{disk: disk, cluster: perCluster * sector, data: first * sector, clusters: uint32((total - first) / perCluster)}
	if fs.clusters < 4085 {
		return nil, fail(ReasonNotFAT, "%d clusters are FAT12", fs.clusters)
	}
	// To the specification it is the number of clusters. Both must say the same.
	if wide != (fs.clusters >= 65525) || wide != (rootEntries == 0) {
		return nil, fail(ReasonNotFAT, "%d clusters and %d root entries, but the boot sector's form is that of FAT%d", fs.clusters, rootEntries, 16<<btoi(wide))
	}
	if wide && (b[40]&0x80 != 0 || le.Uint16(b[42:]) != 0) {
		return nil, fail(ReasonNotFAT, "FAT32 of another version, or with tables that differ")
	}
	fs.wide = wide
	fs.fat = make([]byte, fatSectors*sector)
	if err := readAt(disk, fs.fat, reserved*sector); err != nil {
		return nil, err
	}
	if width := 2 << btoi(fs.wide); int64(len(fs.fat)) < (int64(fs.clusters)+2)*int64(width) {
		return nil, fail(ReasonTruncated, "allocation table of %d bytes for %d clusters", len(fs.fat), fs.clusters)
	}
	var root []byte
	var err error
	if fs.wide {
		root, err = fs.read(le.Uint32(b[44:]), -1, maxDirSize)
	} else {
		root = make([]byte, rootEntries*entrySize)
		err = readAt(disk, root, (first-rootSectors)*sector)
	}
	if err != nil {
		return nil, err
	}
	return fs, fs.walk(root, "", 0)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ReadFile returns a file's content; the path is compared without regard to case.
func (fs *FS) ReadFile(path string) ([]byte, error) {
	for _, f := range fs.Files {
		if strings.EqualFold(f.Path, path) {
			return fs.read(f.first, f.Size, maxFileSize)
		}
	}
	return nil, fail(ReasonMissing, "no file %s", path)
}

// walk collects the files of a directory and those below it.
func (fs *FS) walk(dir []byte, prefix string, depth int) error {
	if depth > maxDepth {
		return fail(ReasonTooLarge, "more than %d directories deep", maxDepth)
	}
	list, err := entries(dir, prefix == "")
	if err != nil {
		return err
	}
	for _, e := range list {
		if len(fs.Files) == maxFiles {
			return fail(ReasonTooLarge, "more than %d files", maxFiles)
		}
		if !e.dir {
			fs.Files = append(fs.Files, File{prefix + e.name, e.size, e.first})
			continue
		}
		if fs.dirs++; fs.dirs > maxFiles {
			return fail(ReasonTooLarge, "more than %d directories", maxFiles)
		}
		sub, err := fs.read(e.first, -1, maxDirSize)
		if err != nil {
			return err
		}
		if err := fs.walk(sub, prefix+e.name+"/", depth+1); err != nil {
			return err
		}
	}
	return nil
}

// read follows a chain of clusters; size -1 means up to its end.
func (fs *FS) read(cluster uint32, size int64, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fail(ReasonTooLarge, "a file of %d bytes, at most %d", size, limit)
	}
	if size > int64(fs.clusters)*fs.cluster {
		return nil, fail(ReasonChain, "a file of %d bytes is larger than its file system", size)
	}
	if size == 0 {
		return nil, nil
	}
	var out []byte
	if size > 0 {
		out = make([]byte, 0, (size+fs.cluster-1)/fs.cluster*fs.cluster)
	}
	for size < 0 || int64(len(out)) < size {
		// A run of neighbouring clusters is read at once. The length of out bounds
		// the walk, so a loop in the chain ends at the limit.
		start, n := cluster, int64(0)
		for {
			if cluster < 2 || cluster >= fs.clusters+2 {
				return nil, fail(ReasonChain, "cluster %d of %d after %d bytes", cluster, fs.clusters, len(out))
			}
			n++
			next := fs.next(cluster)
			joined := next == cluster+1 && (size < 0 || int64(len(out))+n*fs.cluster < size)
			if cluster = next; !joined || int64(len(out))+n*fs.cluster > limit {
				break
			}
		}
		if int64(len(out))+n*fs.cluster > limit+fs.cluster {
			return nil, fail(ReasonTooLarge, "a chain of more than %d bytes", limit)
		}
		at := len(out)
		out = append(out, make([]byte, n*fs.cluster)...)
		if err := readAt(fs.disk, out[at:], fs.data+int64(start-2)*fs.cluster); err != nil {
			return nil, err
		}
		if size < 0 && fs.last(cluster) {
			return out, nil
		}
	}
	return out[:size], nil
}

func (fs *FS) next(cluster uint32) uint32 {
	if fs.wide {
		return binary.LittleEndian.Uint32(fs.fat[4*cluster:]) & 0x0fffffff
	}
	return uint32(binary.LittleEndian.Uint16(fs.fat[2*cluster:]))
}

// last says whether an entry of the table marks the end of a chain.
func (fs *FS) last(entry uint32) bool {
	if fs.wide {
		return entry >= 0x0ffffff8
	}
	return entry >= 0xfff8
}

func readAt(r io.ReaderAt, b []byte, off int64) error {
	if n, err := r.ReadAt(b, off); err != nil && n != len(b) {
		return fail(ReasonTruncated, "%d bytes at %d: %v", len(b), off, err)
	}
	return nil
}
