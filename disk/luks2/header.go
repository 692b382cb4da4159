// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// Header is a parsed header. What it does not say is the same for all.
type Header struct {
	// UUID names the disk: lower-case, in the form of RFC 9562.
	UUID string
	// Sequence counts the header's versions.
	Sequence uint64
	// Salt makes the checksum of each disk's header another.
	Salt [64]byte
	// Slots are the key slots: one, or two while the key is being replaced.
	Slots [Slots]*Slot
	// Digest is what the volume key is recognised by.
	Digest Digest
}

// Copy is one of the two copies of the header.
type Copy int

// The copies, at the beginning of the disk and behind it.
const (
	Primary Copy = iota
	Secondary
)

// Offset is where on the disk the copy is.
func (c Copy) Offset() int64 { return int64(c) * HeaderSize }

func (c Copy) magic() string {
	if c == Secondary {
		return magicCopy
	}
	return magic
}

// Fields of the binary header (LUKS2 specification, 2.1), all big endian.
const (
	offsetVersion   = 6
	offsetSize      = 8
	offsetSequence  = 16
	offsetLabel     = 24
	offsetAlgorithm = 72
	offsetSalt      = 104
	offsetUUID      = 168
	offsetSubsystem = 208
	offsetOffset    = 256
	offsetPadding   = 264
	offsetChecksum  = 448
	endChecksum     = 512
)

// Parse reads one copy of the header. data must have [HeaderSize] bytes.
func Parse(data []byte, which Copy) (*Header, error) {
	if len(data) != HeaderSize {
		return nil, refuse(ReasonLayout, "it has %d bytes, not %d", len(data), HeaderSize)
	}
	if err := checkBinary(data, which); err != nil {
		return nil, err
	}
	h := &Header{
		UUID:     text(data[offsetUUID:offsetSubsystem]),
		Sequence: binary.BigEndian.Uint64(data[offsetSequence:]),
		Salt:     [64]byte(data[offsetSalt:offsetUUID]),
	}
	if !ValidUUID(h.UUID) {
		return nil, refuse(ReasonUUID, "its name is not a UUID")
	}
	document, padding, _ := bytes.Cut(data[binarySize:], []byte{0})
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return nil, refuse(ReasonMetadata, "something follows the metadata")
	}
	if err := h.decode(document); err != nil {
		return nil, err
	}
	// Whatever the checks above know nothing of is found here: there is one way to write a header.
	again := h.body(which)
	copy(again[offsetChecksum:], data[offsetChecksum:offsetChecksum+sha256.Size]) // it is right
	if !bytes.Equal(again[:binarySize], data[:binarySize]) {
		return nil, refuse(ReasonLayout, "the binary header is not written as a state disk's")
	}
	if !bytes.Equal(again[binarySize:], data[binarySize:]) {
		return nil, refuse(ReasonMetadata, "the metadata is not written as a state disk's")
	}
	return h, nil
}

func checkBinary(data []byte, which Copy) error {
	if string(data[:len(magic)]) != which.magic() {
		return refuse(ReasonNoHeader, "there is no LUKS header")
	}
	if v := binary.BigEndian.Uint16(data[offsetVersion:]); v != version {
		return refuse(ReasonVersion, "LUKS version %d, not %d", v, version)
	}
	if size := binary.BigEndian.Uint64(data[offsetSize:]); size != HeaderSize {
		return refuse(ReasonLayout, "its size is %d, not %d", size, HeaderSize)
	}
	if offset := binary.BigEndian.Uint64(data[offsetOffset:]); offset != uint64(which.Offset()) {
		return refuse(ReasonLayout, "it says that it lies at %d, not %d", offset, which.Offset())
	}
	if text(data[offsetLabel:offsetAlgorithm]) != Label {
		return refuse(ReasonForeign, "it is a LUKS disk of somebody else")
	}
	if text(data[offsetAlgorithm:offsetSalt]) != hash {
		return refuse(ReasonChecksum, "its checksum is not SHA-256")
	}
	if got := checksum(data); !bytes.Equal(got[:], data[offsetChecksum:offsetChecksum+sha256.Size]) {
		return refuse(ReasonChecksum, "its checksum is wrong")
	}
	return nil
}

// text returns what a field of text holds; nothing if it is not text and zeros.
func text(field []byte) string {
	value, padding, _ := bytes.Cut(field, []byte{0})
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return ""
	}
	return string(value)
}

// checksum is computed as if the checksum were zero.
func checksum(data []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(data[:offsetChecksum])
	h.Write(make([]byte, endChecksum-offsetChecksum))
	h.Write(data[endChecksum:])
	return [sha256.Size]byte(h.Sum(nil))
}

// Encode writes one copy of the header.
func (h *Header) Encode(which Copy) []byte {
	data := h.body(which)
	sum := checksum(data)
	copy(data[offsetChecksum:], sum[:])
	return data
}

// body writes a copy without its checksum.
func (h *Header) body(which Copy) []byte {
	data := make([]byte, HeaderSize)
	copy(data, which.magic())
	binary.BigEndian.PutUint16(data[offsetVersion:], version)
	binary.BigEndian.PutUint64(data[offsetSize:], HeaderSize)
	binary.BigEndian.PutUint64(data[offsetSequence:], h.Sequence)
	copy(data[offsetLabel:], Label)
	copy(data[offsetAlgorithm:], hash)
	copy(data[offsetSalt:], h.Salt[:])
	copy(data[offsetUUID:], h.UUID)
	binary.BigEndian.PutUint64(data[offsetOffset:], uint64(which.Offset()))
	copy(data[binarySize:], h.document())
	return data
}

// ValidUUID says whether a name has the only form that a disk's name may have.
func ValidUUID(name string) bool {
	if len(name) != 36 {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}
