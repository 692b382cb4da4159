// SPDX-License-Identifier: Apache-2.0

// Package fat writes a FAT32 file system that holds a few files, for an EFI system partition.
//
// mkfs.fat and mtools would do, if they did not put the time, a random serial number and the order of their calls
// into it. Here the bytes are a function of the content: every time stamp is the format's earliest, files lie one
// behind the other without gaps, and the volume identifier is given. Clusters are one sector, so that a small
// partition has the number of them that makes it FAT32.
//
// The format is Microsoft's "FAT32 File System Specification", version 1.03, which UEFI refers to. Names are the
// upper-case 8.3 names that a removable disk's boot path consists of; long names are not supported.
//
// Not guaranteed: the result is for firmware to read. It has room for more, but nothing here adds to it later.
package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// SectorSize is the size, in bytes, of a sector and of a cluster.
const SectorSize = 512

const (
	reservedSectors = 32
	copies          = 2 // of the allocation table
	firstCluster    = 2
	rootCluster     = firstCluster
	minClusters     = 65525   // fewer would make it FAT16
	maxClusters     = 1 << 22 // 2 GiB
	endOfChain      = 0x0FFFFFFF
	entrySize       = 32

	attributeDirectory = 0x10
	attributeVolume    = 0x08
	// earliest is 1980-01-01, the first date that the format has.
	earliest = 1<<5 | 1
)

var le = binary.LittleEndian

// File is one file of the file system.
type File struct {
	// Path consists of 8.3 names in upper case, such as EFI/BOOT/BOOTX64.EFI.
	Path    string
	Content []byte
}

// Volume is a file system.
type Volume struct {
	// Size is the partition's size in bytes.
	Size int64
	// ID is the volume's serial number.
	ID uint32
	// Label is the volume's name, at most 11 characters.
	Label string
	Files []File
}

type node struct {
	name     string
	content  []byte
	children []*node // of a directory
	isDir    bool
	cluster  uint32
}

// Write writes the file system to w from offset on. It writes only what is not zero, so that a new file stays sparse.
func (v Volume) Write(w io.WriterAt, offset int64) error {
	root, err := v.tree()
	if err != nil {
		return err
	}
	sectors := uint32(v.Size / SectorSize)
	tableSectors := tableSize(sectors)
	if v.Size%SectorSize != 0 || v.Size/SectorSize > maxClusters || sectors < reservedSectors+copies*tableSectors ||
		sectors-reservedSectors-copies*tableSectors < minClusters {
		return fmt.Errorf("size of %d bytes is not one for FAT32 with clusters of one sector", v.Size)
	}
	clusters := sectors - reservedSectors - copies*tableSectors

	next := uint32(rootCluster)
	chains := allocate(root, &next, nil)
	if next-firstCluster > clusters {
		return fmt.Errorf("files need %d sectors, the file system has %d", next-firstCluster, clusters)
	}
	boot := v.bootSector(sectors, tableSectors)
	information := informationSector(clusters-(next-firstCluster), next)
	table := allocationTable(chains)
	dataStart := offset + int64(reservedSectors+copies*tableSectors)*SectorSize

	type piece struct {
		at   int64
		data []byte
	}
	pieces := []piece{
		{offset, boot}, {offset + SectorSize, information},
		{offset + 6*SectorSize, boot}, {offset + 7*SectorSize, information},
	}
	for i := range int64(copies) {
		pieces = append(pieces, piece{offset + (reservedSectors+i*int64(tableSectors))*SectorSize, table})
	}
	walk(root, root, v.Label, func(n *node, data []byte) {
		pieces = append(pieces, piece{dataStart + int64(n.cluster-firstCluster)*SectorSize, data})
	})
	for _, p := range pieces {
		if _, err := w.WriteAt(p.data, p.at); err != nil {
			return fmt.Errorf("write file system: %w", err)
		}
	}
	return nil
}

// tableSize returns how many sectors one allocation table takes so that it has an entry for every cluster.
func tableSize(sectors uint32) uint32 {
	const perSector = SectorSize / 4
	return (sectors - reservedSectors + firstCluster + perSector + copies - 1) / (perSector + copies)
}

func (v Volume) tree() (*node, error) {
	if len(v.Label) > 11 || strings.ToUpper(v.Label) != v.Label {
		return nil, fmt.Errorf("label %q is not of at most 11 upper-case characters", v.Label)
	}
	root := &node{isDir: true}
	files := slices.Clone(v.Files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, file := range files {
		dir := root
		elements := strings.Split(file.Path, "/")
		for i, name := range elements {
			if _, err := shortName(name); err != nil {
				return nil, fmt.Errorf("%s: %w", file.Path, err)
			}
			last := i == len(elements)-1
			index := slices.IndexFunc(dir.children, func(n *node) bool { return n.name == name })
			if index >= 0 && (last || !dir.children[index].isDir) {
				return nil, fmt.Errorf("%s is there twice", path.Join(elements[:i+1]...))
			}
			if index < 0 {
				dir.children = append(dir.children, &node{name: name, isDir: !last})
				index = len(dir.children) - 1
			}
			dir = dir.children[index]
		}
		dir.content = file.Content
	}
	return root, nil
}

// shortName returns the 11 bytes under which a directory lists an 8.3 name.
func shortName(name string) ([]byte, error) {
	base, extension, _ := strings.Cut(name, ".")
	valid := func(s string, size int) bool {
		return len(s) <= size && !strings.ContainsFunc(s, func(r rune) bool {
			return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
		})
	}
	if base == "" || !valid(base, 8) || !valid(extension, 3) {
		return nil, fmt.Errorf("name %q is not of the form 8.3 in upper case", name)
	}
	return fmt.Appendf(nil, "%-8s%-3s", base, extension), nil
}

// chain is a run of clusters that belong to one file.
type chain struct{ first, count uint32 }

// allocate gives clusters to n and all below it, one behind the other.
func allocate(n *node, next *uint32, chains []chain) []chain {
	size := len(n.content)
	if n.isDir {
		size = (len(n.children) + 2) * entrySize // "." and "..", or the label and nothing
	}
	count := uint32((size + SectorSize - 1) / SectorSize)
	if count > 0 {
		n.cluster = *next
		chains = append(chains, chain{*next, count})
		*next += count
	}
	for _, child := range n.children {
		chains = allocate(child, next, chains)
	}
	return chains
}

func allocationTable(chains []chain) []byte {
	table := make([]byte, 8)
	le.PutUint32(table[0:], 0x0FFFFFF8) // media descriptor
	le.PutUint32(table[4:], endOfChain)
	for _, c := range chains {
		for i := uint32(1); i < c.count; i++ {
			table = le.AppendUint32(table, c.first+i)
		}
		table = le.AppendUint32(table, endOfChain)
	}
	return table
}

// walk calls visit with the bytes of every file and directory below n that has clusters.
func walk(n, parent *node, label string, visit func(*node, []byte)) {
	data := n.content
	if n.isDir {
		data = directory(n, parent, label)
	}
	if len(data) > 0 {
		visit(n, data)
	}
	for _, child := range n.children {
		walk(child, n, "", visit)
	}
}

func directory(n, parent *node, label string) []byte {
	var data []byte
	if n.name == "" {
		data = appendEntry(data, fmt.Appendf(nil, "%-11s", label), attributeVolume, 0, 0)
	} else {
		above := parent.cluster
		if parent.name == "" {
			above = 0 // how the format names the root
		}
		data = appendEntry(data, fmt.Appendf(nil, "%-11s", "."), attributeDirectory, n.cluster, 0)
		data = appendEntry(data, fmt.Appendf(nil, "%-11s", ".."), attributeDirectory, above, 0)
	}
	for _, child := range n.children {
		name, err := shortName(child.name)
		if err != nil {
			panic(err) // tree has checked every name
		}
		attribute := byte(0)
		if child.isDir {
			attribute = attributeDirectory
		}
		data = appendEntry(data, name, attribute, child.cluster, uint32(len(child.content)))
	}
	return data
}

func appendEntry(data, name []byte, attribute byte, cluster, size uint32) []byte {
	entry := make([]byte, entrySize)
	copy(entry, name)
	entry[11] = attribute
	for _, date := range []int{16, 18, 24} { // made, read, written
		le.PutUint16(entry[date:], earliest)
	}
	le.PutUint16(entry[20:], uint16(cluster>>16))
	le.PutUint16(entry[26:], uint16(cluster))
	le.PutUint32(entry[28:], size)
	return append(data, entry...)
}

func (v Volume) bootSector(sectors, tableSectors uint32) []byte {
	s := make([]byte, SectorSize)
	copy(s, []byte{0xEB, 0x58, 0x90}) // a jump that is never taken
	copy(s[3:], "MSWIN4.1")           // the name that the specification recommends
	le.PutUint16(s[11:], SectorSize)
	s[13] = 1 // sectors per cluster
	le.PutUint16(s[14:], reservedSectors)
	s[16] = copies
	s[21] = 0xF8 // fixed disk
	le.PutUint16(s[24:], 63)
	le.PutUint16(s[26:], 255)
	le.PutUint32(s[32:], sectors)
	le.PutUint32(s[36:], tableSectors)
	le.PutUint32(s[44:], rootCluster)
	le.PutUint16(s[48:], 1) // information sector
	le.PutUint16(s[50:], 6) // copy of this sector
	s[64] = 0x80
	s[66] = 0x29 // the next three fields are there
	le.PutUint32(s[67:], v.ID)
	copy(s[71:], fmt.Sprintf("%-11s", v.Label))
	copy(s[82:], "FAT32   ")
	s[510], s[511] = 0x55, 0xAA
	return s
}

func informationSector(free, next uint32) []byte {
	s := make([]byte, SectorSize)
	le.PutUint32(s[0:], 0x41615252)
	le.PutUint32(s[484:], 0x61417272)
	le.PutUint32(s[488:], free)
	le.PutUint32(s[492:], next)
	le.PutUint32(s[508:], 0xAA550000)
	return s
}
