// SPDX-License-Identifier: Apache-2.0

// Package gpt reads and writes GUID partition tables (UEFI Specification 2.10,
// section 5.3) and makes the event that firmware measures of one.
//
// Parse is for disks that nobody vouches for: it wants both copies of the table
// whole, equal and consistent with the disk's size, where firmware would make
// do with one. What it accepts, firmware reads the same way. It says nothing
// about what is in the partitions.
package gpt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// SectorSize is the only logical block size supported, in bytes.
const SectorSize = 512

// Sizes fixed by the specification, in bytes.
const (
	headerSize = 92
	entrySize  = 128
)

// EntryCount is how many entries Encode writes, the usual size of the array.
const EntryCount = 128

// MaxEntries limits the array that Parse reads.
const MaxEntries = 256

// Sectors that Encode's table takes at each end of the disk: at the front the
// protective MBR, the header and the entries, at the back entries and header.
const (
	HeadSectors = 2 + EntryCount*entrySize/SectorSize
	TailSectors = 1 + EntryCount*entrySize/SectorSize
)

// Partition is one used entry.
type Partition struct {
	Type       GUID
	ID         GUID
	FirstLBA   uint64
	LastLBA    uint64 // inclusive
	Attributes uint64
	Name       string // at most 36 UTF-16 units
}

// Offset is where the partition begins, in bytes.
func (p *Partition) Offset() int64 { return int64(p.FirstLBA) * SectorSize }

// Size is the partition's length in bytes.
func (p *Partition) Size() int64 { return int64(p.LastLBA-p.FirstLBA+1) * SectorSize }

// Table is a partition table.
type Table struct {
	DiskID         GUID
	FirstUsableLBA uint64
	LastUsableLBA  uint64 // inclusive
	Partitions     []Partition

	header  []byte // primary header, as on disk
	entries []byte // entry array, as on disk
}

// Partition returns the partition with that unique GUID, nil if there is none.
func (t *Table) Partition(id GUID) *Partition {
	for i := range t.Partitions {
		if t.Partitions[i].ID == id {
			return &t.Partitions[i]
		}
	}
	return nil
}

// Reason classifies why a table was refused.
type Reason string

// Reasons of Parse.
const (
	ReasonTruncated Reason = "truncated" // the disk ends before its table
	ReasonNoTable   Reason = "no-table"  // no protective MBR or signature
	ReasonHeader    Reason = "header"    // a header field is out of range
	ReasonChecksum  Reason = "checksum"  // a CRC is wrong
	ReasonBackup    Reason = "backup"    // the copies differ or one is misplaced
	ReasonEntry     Reason = "entry"     // a partition is out of range or malformed
	ReasonOverlap   Reason = "overlap"   // two partitions share a sector or a GUID
	ReasonTooLarge  Reason = "too-large" // a limit of this package was exceeded
	ReasonRead      Reason = "read"      // the disk could not be read
)

// Error is returned by Parse and Encode.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "partition table: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// Parse reads the table of a disk of size bytes.
func Parse(disk io.ReaderAt, size int64) (*Table, error) {
	if size < 6*SectorSize || size%SectorSize != 0 {
		return nil, fail(ReasonTruncated, "a disk of %d bytes", size)
	}
	last := uint64(size/SectorSize) - 1
	front, err := read(disk, 0, 2*SectorSize)
	if err != nil {
		return nil, err
	}
	if err := checkProtectiveMBR(front[:SectorSize]); err != nil {
		return nil, err
	}
	primary, err := parseHeader(front[SectorSize:], 1)
	if err != nil {
		return nil, fmt.Errorf("primary: %w", err)
	}
	if primary.alternate != last {
		return nil, fail(ReasonBackup, "header names sector %d for the copy, the disk ends with sector %d", primary.alternate, last)
	}
	tail, err := read(disk, int64(last)*SectorSize, SectorSize)
	if err != nil {
		return nil, err
	}
	backup, err := parseHeader(tail, last)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	t := &Table{
		DiskID:         primary.disk,
		FirstUsableLBA: primary.first,
		LastUsableLBA:  primary.last,
		header:         front[SectorSize : SectorSize+headerSize],
	}
	if err := checkPair(primary, backup, last); err != nil {
		return nil, err
	}
	if t.entries, err = readEntries(disk, primary); err != nil {
		return nil, fmt.Errorf("primary: %w", err)
	}
	copied, err := readEntries(disk, backup)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	if !bytes.Equal(t.entries, copied) {
		return nil, fail(ReasonBackup, "the two entry arrays differ")
	}
	return t, t.parseEntries()
}

// header is the part of EFI_PARTITION_TABLE_HEADER that varies.
type header struct {
	self, alternate, first, last, entries uint64
	disk                                  GUID
	count, entriesCRC                     uint32
}

func parseHeader(sector []byte, self uint64) (*header, error) {
	le := binary.LittleEndian
	if string(sector[:8]) != "EFI PART" {
		return nil, fail(ReasonNoTable, "no signature in sector %d", self)
	}
	if rev, size := le.Uint32(sector[8:]), le.Uint32(sector[12:]); rev != 0x00010000 || size != headerSize {
		return nil, fail(ReasonHeader, "revision %#x, %d bytes", rev, size)
	}
	zeroed := append([]byte(nil), sector[:headerSize]...)
	clear(zeroed[16:20])
	if crc32.ChecksumIEEE(zeroed) != le.Uint32(sector[16:]) {
		return nil, fail(ReasonChecksum, "header in sector %d", self)
	}
	h := &header{
		self:       le.Uint64(sector[24:]),
		alternate:  le.Uint64(sector[32:]),
		first:      le.Uint64(sector[40:]),
		last:       le.Uint64(sector[48:]),
		disk:       GUID(sector[56:72]),
		entries:    le.Uint64(sector[72:]),
		count:      le.Uint32(sector[80:]),
		entriesCRC: le.Uint32(sector[88:]),
	}
	if h.self != self {
		return nil, fail(ReasonHeader, "header in sector %d says it is in %d", self, h.self)
	}
	if n := le.Uint32(sector[84:]); n != entrySize {
		return nil, fail(ReasonHeader, "entries of %d bytes", n)
	}
	if h.count == 0 {
		return nil, fail(ReasonHeader, "no entries")
	}
	if h.count > MaxEntries {
		return nil, fail(ReasonTooLarge, "%d entries, at most %d", h.count, MaxEntries)
	}
	return h, nil
}

// sectors is the length of the entry array.
func (h *header) sectors() uint64 {
	return (uint64(h.count)*entrySize + SectorSize - 1) / SectorSize
}

func checkPair(p, b *header, last uint64) error {
	n := p.sectors()
	switch {
	case p.first > p.last || p.last >= last:
		return fail(ReasonHeader, "usable sectors %d to %d of %d", p.first, p.last, last+1)
	case p.entries < 2 || p.entries >= p.first || n > p.first-p.entries:
		return fail(ReasonHeader, "entry array at sector %d before usable sector %d", p.entries, p.first)
	case b.alternate != 1 || b.first != p.first || b.last != p.last || b.disk != p.disk ||
		b.count != p.count || b.entriesCRC != p.entriesCRC:
		return fail(ReasonBackup, "the two headers differ")
	case b.entries <= p.last || b.entries >= last || n > last-b.entries:
		return fail(ReasonBackup, "entry array at sector %d after usable sector %d", b.entries, p.last)
	}
	return nil
}

func readEntries(disk io.ReaderAt, h *header) ([]byte, error) {
	raw, err := read(disk, int64(h.entries)*SectorSize, int(h.count)*entrySize)
	if err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(raw) != h.entriesCRC {
		return nil, fail(ReasonChecksum, "entry array at sector %d", h.entries)
	}
	return raw, nil
}

func (t *Table) parseEntries() error {
	le := binary.LittleEndian
	for i := 0; i < len(t.entries); i += entrySize {
		e := t.entries[i : i+entrySize]
		p := Partition{
			Type:       GUID(e[:16]),
			ID:         GUID(e[16:32]),
			FirstLBA:   le.Uint64(e[32:]),
			LastLBA:    le.Uint64(e[40:]),
			Attributes: le.Uint64(e[48:]),
		}
		if p.Type == (GUID{}) {
			continue
		}
		units := make([]uint16, 0, 36)
		for j := 56; j < entrySize && le.Uint16(e[j:]) != 0; j += 2 {
			units = append(units, le.Uint16(e[j:]))
		}
		p.Name = string(utf16.Decode(units))
		if p.FirstLBA < t.FirstUsableLBA || p.LastLBA > t.LastUsableLBA || p.FirstLBA > p.LastLBA {
			return fail(ReasonEntry, "partition %d: sectors %d to %d", i/entrySize+1, p.FirstLBA, p.LastLBA)
		}
		for j := range t.Partitions {
			if q := &t.Partitions[j]; p.FirstLBA <= q.LastLBA && q.FirstLBA <= p.LastLBA || p.ID == q.ID {
				return fail(ReasonOverlap, "partitions %d and %d", j+1, i/entrySize+1)
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	return nil
}

// Event is UEFI_GPT_DATA (TCG PC Client Platform Firmware Profile 1.06, section
// 10.2.5): the primary header, the number of used entries, the used entries.
// Firmware measures it into PCR 5. It is valid after Parse.
func (t *Table) Event() []byte {
	out := append([]byte(nil), t.header...)
	count := len(out)
	out = append(out, make([]byte, 8)...)
	n := uint64(0)
	for i := 0; i < len(t.entries); i += entrySize {
		if e := t.entries[i : i+entrySize]; GUID(e[:16]) != (GUID{}) {
			out = append(out, e...)
			n++
		}
	}
	binary.LittleEndian.PutUint64(out[count:], n)
	return out
}

// checkProtectiveMBR wants one partition of type 0xEE that begins at sector 1
// (UEFI section 5.2.3).
func checkProtectiveMBR(b []byte) error {
	if b[510] != 0x55 || b[511] != 0xaa {
		return fail(ReasonNoTable, "no protective MBR")
	}
	for i := range 4 {
		e := b[446+16*i:][:16]
		protective := e[4] == 0xee && binary.LittleEndian.Uint32(e[8:]) == 1
		if (i == 0) != protective || (i > 0 && e[4] != 0) {
			return fail(ReasonNoTable, "MBR partition %d has type %#02x", i+1, e[4])
		}
	}
	return nil
}

func read(disk io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(disk, off, int64(n)), b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fail(ReasonTruncated, "%d bytes at %d", n, off)
		}
		return nil, fail(ReasonRead, "%d bytes at %d: %v", n, off, err)
	}
	return b, nil
}
