// SPDX-License-Identifier: Apache-2.0

// Package pe reads PE/COFF images of x86-64 UEFI (Microsoft PE Format, PE32+) as
// far as measuring needs: the section table, what a section holds once loaded,
// and the byte ranges that make the Authenticode digest.
//
// It serves prediction, so it is stricter than firmware: an image whose reading
// is ambiguous (overlapping sections, a certificate table that is not at the
// end) is refused instead of guessed at. It does not verify signatures.
package pe

import (
	"encoding/binary"
	"fmt"
	"sort"
)

// Limits of Parse.
const (
	MaxSize     = 512 << 20 // bytes of an image
	MaxSections = 96        // sections of an image, the limit of Windows' loader
	// maxZeroFill bounds the zeros that a section may ask for beyond its file data.
	maxZeroFill = 1 << 20
)

// Offsets and sizes of the format.
const (
	dosHeaderSize     = 64
	coffHeaderSize    = 20
	sectionHeaderSize = 40
	machineAMD64      = 0x8664
	magicPE32Plus     = 0x20b
	// Within the PE32+ optional header.
	offSizeOfHeaders = 60
	offCheckSum      = 64
	offRvaCount      = 108
	offDirectories   = 112
	securityEntry    = 4 // IMAGE_DIRECTORY_ENTRY_SECURITY
)

// Section is one entry of the section table.
type Section struct {
	Name           string // at most 8 bytes
	VirtualAddress uint32
	VirtualSize    uint32
	Offset         uint32 // in the file
	RawSize        uint32 // in the file
}

// Image is a parsed image. It aliases the bytes it was parsed from.
type Image struct {
	Sections []Section

	data          []byte
	sizeOfHeaders int
	checksum      int // offset of the CheckSum field
	security      int // offset of the certificate table's directory entry, 0 if there is none
	certSize      int // length of the certificate table at the end of the file
}

// Reason classifies why an image was refused.
type Reason string

// Reasons of Parse and of Section.
const (
	ReasonTruncated   Reason = "truncated"   // a header or section runs past the end
	ReasonTooLarge    Reason = "too-large"   // a limit of this package was exceeded
	ReasonNotPE       Reason = "not-pe"      // no MZ or PE signature
	ReasonUnsupported Reason = "unsupported" // not an x86-64 PE32+ image
	ReasonHeader      Reason = "header"      // sizes in the headers contradict each other
	ReasonOverlap     Reason = "overlap"     // sections share bytes of the file or addresses
	ReasonCertificate Reason = "certificate" // the certificate table is not at the end
)

// Error is returned by this package.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "PE image: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// Parse reads the headers of an image.
func Parse(data []byte) (*Image, error) {
	le := binary.LittleEndian
	if len(data) > MaxSize {
		return nil, fail(ReasonTooLarge, "%d bytes, at most %d", len(data), MaxSize)
	}
	if len(data) < dosHeaderSize {
		return nil, fail(ReasonTruncated, "%d bytes", len(data))
	}
	if data[0] != 'M' || data[1] != 'Z' {
		return nil, fail(ReasonNotPE, "no MZ signature")
	}
	pe := int64(le.Uint32(data[60:]))
	if pe < dosHeaderSize {
		return nil, fail(ReasonHeader, "PE header at %d", pe)
	}
	optional := pe + 4 + coffHeaderSize
	if optional+offDirectories > int64(len(data)) {
		return nil, fail(ReasonTruncated, "PE header at %d of %d bytes", pe, len(data))
	}
	if string(data[pe:pe+4]) != "PE\x00\x00" {
		return nil, fail(ReasonNotPE, "no PE signature")
	}
	coff, opt := data[pe+4:], data[optional:]
	if m, g := le.Uint16(coff), le.Uint16(opt); m != machineAMD64 || g != magicPE32Plus {
		return nil, fail(ReasonUnsupported, "machine %#04x, optional header %#03x", m, g)
	}
	img := &Image{
		data:          data,
		sizeOfHeaders: int(le.Uint32(opt[offSizeOfHeaders:])),
		checksum:      int(optional) + offCheckSum,
	}
	if err := img.parseDirectories(int(optional), int(le.Uint16(coff[16:]))); err != nil {
		return nil, err
	}
	return img, img.parseSections(int(optional)+int(le.Uint16(coff[16:])), int(le.Uint16(coff[2:])))
}

func (i *Image) parseDirectories(optional, size int) error {
	le := binary.LittleEndian
	n := le.Uint32(i.data[optional+offRvaCount:])
	if optional+size > len(i.data) {
		return fail(ReasonTruncated, "optional header of %d bytes at %d of %d", size, optional, len(i.data))
	}
	if n > 16 || size != offDirectories+8*int(n) {
		return fail(ReasonHeader, "optional header of %d bytes with %d directories", size, n)
	}
	if n <= securityEntry {
		return nil
	}
	i.security = optional + offDirectories + 8*securityEntry
	at, length := int64(le.Uint32(i.data[i.security:])), int64(le.Uint32(i.data[i.security+4:]))
	if length != 0 && at+length != int64(len(i.data)) {
		return fail(ReasonCertificate, "%d bytes at %d of %d", length, at, len(i.data))
	}
	i.certSize = int(length)
	return nil
}

func (i *Image) parseSections(table, count int) error {
	le := binary.LittleEndian
	if count == 0 || count > MaxSections {
		return fail(ReasonTooLarge, "%d sections, want 1 to %d", count, MaxSections)
	}
	end := table + count*sectionHeaderSize
	if end > i.sizeOfHeaders || i.sizeOfHeaders > len(i.data)-i.certSize {
		return fail(ReasonTruncated, "headers of %d bytes, section table ends at %d, file has %d", i.sizeOfHeaders, end, len(i.data))
	}
	for j := range count {
		h := i.data[table+j*sectionHeaderSize:]
		name := h[:8]
		for k, c := range name {
			if c == 0 {
				name = name[:k]
				break
			}
		}
		i.Sections = append(i.Sections, Section{
			Name:           string(name),
			VirtualSize:    le.Uint32(h[8:]),
			VirtualAddress: le.Uint32(h[12:]),
			RawSize:        le.Uint32(h[16:]),
			Offset:         le.Uint32(h[20:]),
		})
	}
	return i.checkSections()
}

// checkSections wants sections whose bytes lie behind the headers, before the
// certificate table, apart from each other; and apart in memory too.
func (i *Image) checkSections() error {
	at := int64(i.sizeOfHeaders)
	for _, s := range i.byOffset() {
		if int64(s.Offset) < at {
			return fail(ReasonOverlap, "section %q at %d begins before %d", s.Name, s.Offset, at)
		}
		at = int64(s.Offset) + int64(s.RawSize)
		if at > int64(len(i.data)-i.certSize) {
			return fail(ReasonTruncated, "section %q ends at %d, the file's content at %d", s.Name, at, len(i.data)-i.certSize)
		}
	}
	byAddress := append([]Section(nil), i.Sections...)
	sort.SliceStable(byAddress, func(a, b int) bool { return byAddress[a].VirtualAddress < byAddress[b].VirtualAddress })
	at = 0
	for _, s := range byAddress {
		if int64(s.VirtualAddress) < at {
			return fail(ReasonOverlap, "section %q at address %#x begins before %#x", s.Name, s.VirtualAddress, at)
		}
		at = int64(s.VirtualAddress) + int64(s.VirtualSize)
	}
	return nil
}

// byOffset is the sections with data in the file, in the file's order.
func (i *Image) byOffset() []Section {
	var out []Section
	for _, s := range i.Sections {
		if s.RawSize != 0 {
			out = append(out, s)
		}
	}
	sort.SliceStable(out, func(a, b int) bool { return out[a].Offset < out[b].Offset })
	return out
}

// Content is the section as it is in memory once loaded: VirtualSize bytes, those
// beyond the file's are zero. The offset of a section without data in the file is
// unchecked and never used.
func (i *Image) Content(s Section) ([]byte, error) {
	if s.RawSize != 0 && s.VirtualSize <= s.RawSize {
		return i.data[s.Offset : s.Offset+s.VirtualSize], nil
	}
	if s.VirtualSize-s.RawSize > maxZeroFill {
		return nil, fail(ReasonTooLarge, "section %q asks for %d zeros, at most %d", s.Name, s.VirtualSize-s.RawSize, maxZeroFill)
	}
	out := make([]byte, s.VirtualSize)
	if s.RawSize != 0 {
		copy(out, i.data[s.Offset:s.Offset+s.RawSize])
	}
	return out, nil
}

// Authenticode returns the byte ranges whose concatenation firmware hashes to
// measure or verify the image (Windows Authenticode Portable Executable
// Signature Format, "Calculating the PE Image Hash"; TCG PFP 1.06 section
// 10.4.2). As in EDK II nothing is padded.
func (i *Image) Authenticode() [][]byte {
	ranges := [][]byte{i.data[:i.checksum]}
	if i.security == 0 {
		ranges = append(ranges, i.data[i.checksum+4:i.sizeOfHeaders])
	} else {
		ranges = append(ranges, i.data[i.checksum+4:i.security], i.data[i.security+8:i.sizeOfHeaders])
	}
	hashed := i.sizeOfHeaders
	for _, s := range i.byOffset() {
		ranges = append(ranges, i.data[s.Offset:s.Offset+s.RawSize])
		hashed += int(s.RawSize)
	}
	// What is left over counts from the number of bytes hashed, not from the
	// last section's end: gaps between sections shift it.
	if end := len(i.data) - i.certSize; end > hashed {
		ranges = append(ranges, i.data[hashed:end])
	}
	return ranges
}
