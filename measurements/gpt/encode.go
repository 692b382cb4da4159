// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// Encode makes the first HeadSectors and the last TailSectors sectors of a disk
// of size bytes. Everything comes from t: the same table gives the same bytes.
// FirstUsableLBA and LastUsableLBA are set by the layout, whatever t holds.
// Partitions must be given in ascending order, within the usable sectors.
func (t *Table) Encode(size int64) (head, tail []byte, err error) {
	sectors := uint64(size / SectorSize)
	if size < (HeadSectors+TailSectors+1)*SectorSize || size%SectorSize != 0 {
		return nil, nil, fail(ReasonTruncated, "a disk of %d bytes", size)
	}
	first, last := uint64(HeadSectors), sectors-TailSectors-1
	entries, err := encodeEntries(t.Partitions, first, last)
	if err != nil {
		return nil, nil, err
	}
	head = make([]byte, HeadSectors*SectorSize)
	encodeProtectiveMBR(head, sectors)
	encodeHeader(head[SectorSize:], t.DiskID, 1, sectors-1, first, last, 2, entries)
	copy(head[2*SectorSize:], entries)

	tail = make([]byte, TailSectors*SectorSize)
	copy(tail, entries)
	encodeHeader(tail[len(entries):], t.DiskID, sectors-1, 1, first, last, last+1, entries)
	return head, tail, nil
}

func encodeEntries(parts []Partition, first, last uint64) ([]byte, error) {
	if len(parts) > EntryCount {
		return nil, fail(ReasonTooLarge, "%d partitions, at most %d", len(parts), EntryCount)
	}
	le := binary.LittleEndian
	out := make([]byte, EntryCount*entrySize)
	for i, p := range parts {
		if p.FirstLBA < first || p.LastLBA > last || p.FirstLBA > p.LastLBA {
			return nil, fail(ReasonEntry, "partition %d: sectors %d to %d outside %d to %d", i+1, p.FirstLBA, p.LastLBA, first, last)
		}
		first = p.LastLBA + 1
		name := utf16.Encode([]rune(p.Name))
		if len(name) > 36 {
			return nil, fail(ReasonEntry, "partition %d: name of %d UTF-16 units, at most 36", i+1, len(name))
		}
		e := out[i*entrySize:]
		copy(e, p.Type[:])
		copy(e[16:], p.ID[:])
		le.PutUint64(e[32:], p.FirstLBA)
		le.PutUint64(e[40:], p.LastLBA)
		le.PutUint64(e[48:], p.Attributes)
		for j, u := range name {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	return out, nil
}

func encodeHeader(b []byte, disk GUID, self, alternate, first, last, entriesLBA uint64, entries []byte) {
	le := binary.LittleEndian
	copy(b, "EFI PART")
	le.PutUint32(b[8:], 0x00010000)
	le.PutUint32(b[12:], headerSize)
	le.PutUint64(b[24:], self)
	le.PutUint64(b[32:], alternate)
	le.PutUint64(b[40:], first)
	le.PutUint64(b[48:], last)
	copy(b[56:], disk[:])
	le.PutUint64(b[72:], entriesLBA)
	le.PutUint32(b[80:], EntryCount)
	le.PutUint32(b[84:], entrySize)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:headerSize]))
}

// encodeProtectiveMBR covers the disk by one partition of type 0xEE, so that
// tools without GPT leave it alone.
func encodeProtectiveMBR(b []byte, sectors uint64) {
	e := b[446:]
	copy(e[1:], []byte{0x00, 0x02, 0x00}) // first cylinder, head, sector
	e[4] = 0xee
	copy(e[5:], []byte{0xff, 0xff, 0xff}) // last cylinder, head, sector
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	b[510], b[511] = 0x55, 0xaa
}
