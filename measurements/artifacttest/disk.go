// SPDX-License-Identifier: Apache-2.0

package artifacttest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements/gpt"
)

// File is a file on the EFI system partition, by its path.
type File struct {
	Path    string
	Content []byte
}

// BootFile is where the UKI belongs.
const BootFile = "EFI/BOOT/BOOTX64.EFI"

// espSectors is the EFI system partition's size: large enough for FAT16.
const espSectors = 4608

// Disk makes a disk with the three partitions of an image, the first with files.
func Disk(files ...File) []byte {
	return DiskOf(Table(), ESP(files...))
}

// Table is the partition table of Disk.
func Table() *gpt.Table {
	esp := uint64(gpt.HeadSectors)
	root := esp + espSectors
	return &gpt.Table{
		DiskID: gpt.GUID{15: 9},
		Partitions: []gpt.Partition{
			{Type: gpt.TypeESP, ID: gpt.GUID{15: 1}, FirstLBA: esp, LastLBA: root - 1, Name: "esp"},
			{Type: gpt.TypeRoot, ID: gpt.GUID{15: 2}, FirstLBA: root, LastLBA: root + 7, Name: "root"},
			{Type: gpt.TypeRootVerity, ID: gpt.GUID{15: 3}, FirstLBA: root + 8, LastLBA: root + 15, Name: "root-verity"},
		},
	}
}

// DiskOf makes a disk of a table and the content of its first partition.
func DiskOf(table *gpt.Table, first []byte) []byte {
	last := uint64(0)
	for _, p := range table.Partitions {
		last = max(last, p.LastLBA)
	}
	size := int64(last+1+gpt.TailSectors) * gpt.SectorSize
	head, tail, err := table.Encode(size)
	if err != nil {
		panic(err)
	}
	disk := make([]byte, size)
	copy(disk, head)
	copy(disk[table.Partitions[0].Offset():], first)
	copy(disk[size-int64(len(tail)):], tail)
	return disk
}

// ESP makes a FAT16 file system with clusters of one sector.
func ESP(files ...File) []byte {
	const sector, reserved, rootEntries = 512, 1, 512
	const fatSectors = (espSectors*2 + sector - 1) / sector
	const data = reserved + fatSectors + rootEntries*32/sector
	le := binary.LittleEndian
	b := &fat{image: make([]byte, espSectors*sector), next: 2, data: data * sector, table: reserved * sector}
	copy(b.image, "\xeb\x3c\x90TEST    ")
	le.PutUint16(b.image[11:], sector)
	b.image[13] = 1
	le.PutUint16(b.image[14:], reserved)
	b.image[16] = 1
	le.PutUint16(b.image[17:], rootEntries)
	le.PutUint16(b.image[19:], espSectors)
	b.image[21] = 0xf8
	le.PutUint16(b.image[22:], fatSectors)
	b.image[510], b.image[511] = 0x55, 0xaa
	copy(b.image[(reserved+fatSectors)*sector:], b.directory(files))
	return b.image
}

// fat allocates clusters one after the other.
type fat struct {
	image       []byte
	next        int
	data, table int
}

// store writes content and returns its first cluster.
func (b *fat) store(content []byte) int {
	if len(content) == 0 {
		return 0
	}
	first := b.next
	n := (len(content) + 511) / 512
	copy(b.image[b.data+(first-2)*512:], content)
	for i := range n {
		link := uint16(first + i + 1)
		if i == n-1 {
			link = 0xffff
		}
		binary.LittleEndian.PutUint16(b.image[b.table+2*(first+i):], link)
	}
	b.next += n
	return first
}

// directory makes the entries for files and, below it, for their directories.
func (b *fat) directory(files []File) []byte {
	var out []byte
	done := map[string]bool{}
	for _, f := range files {
		name, rest, nested := strings.Cut(f.Path, "/")
		if !nested {
			out = append(out, entry(len(out), name, 0x20, b.store(f.Content), len(f.Content))...)
			continue
		}
		if done[name] {
			continue
		}
		done[name] = true
		inside := []File{{rest, f.Content}}
		for _, g := range files {
			if r, ok := strings.CutPrefix(g.Path, name+"/"); ok && r != rest {
				inside = append(inside, File{r, g.Content})
			}
		}
		out = append(out, entry(len(out), name, 0x10, b.store(append(b.directory(inside), make([]byte, 32)...)), 0)...)
	}
	return out
}

// entry makes the long name entries and the short one, number-th in its directory.
func entry(number int, name string, attributes byte, cluster, size int) []byte {
	short := shortName(number, name)
	sum := byte(0)
	for _, c := range short {
		sum = sum<<7 | sum>>1
		sum += c
	}
	units := utf16.Encode([]rune(name))
	if len(units)%13 != 0 {
		units = append(units, 0)
	}
	for len(units)%13 != 0 {
		units = append(units, 0xffff)
	}
	var out []byte
	for i := len(units)/13 - 1; i >= 0; i-- {
		e := make([]byte, 32)
		e[0] = byte(i + 1)
		if i == len(units)/13-1 {
			e[0] |= 0x40
		}
		e[11], e[13] = 0x0f, sum
		for j, u := range units[13*i : 13*i+13] {
			at := 1 + 2*j
			if j >= 5 {
				at = 14 + 2*(j-5)
			}
			if j >= 11 {
				at = 28 + 2*(j-11)
			}
			binary.LittleEndian.PutUint16(e[at:], u)
		}
		out = append(out, e...)
	}
	e := make([]byte, 32)
	copy(e, short)
	e[11] = attributes
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(e[28:], uint32(size))
	return append(out, e...)
}

// shortName is a name in its 11 bytes: the name itself if that fits, else one with a
// number.
func shortName(number int, name string) []byte {
	base, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	if len(base) > 8 || len(ext) > 3 || strings.ContainsAny(name, " ") || strings.Contains(ext, ".") {
		base = fmt.Sprintf("%.3s~%d", strings.ReplaceAll(base, " ", ""), number)
		ext = ""
	}
	return fmt.Appendf(nil, "%-8s%-3s", base, ext)
}
