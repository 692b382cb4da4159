// SPDX-License-Identifier: Apache-2.0

// Package luks2 reads and writes the one kind of LUKS2 header that a state disk has, and refuses all others.
//
// LUKS2 lets a header choose: ciphers (even the null cipher), key sizes, several segments, key derivation with memory
// and time of its liking, re-encryption. Whoever controls the disk writes the header, so each choice is the attacker's
// (CVE-2025-59054, CVE-2025-58356). This package leaves no choice. A header is accepted only if
//
//   - [Parse] finds the binary header, its checksum and its metadata to be what [Header.Encode] writes, byte for byte:
//     no unknown field, no second spelling, nothing in the padding, and every value that is not a salt, a digest, a
//     name or a counter equal to the constant of this package;
//   - [Header.Authenticate] finds a token with a MAC over all of it, under a key that is derived from the disk's key.
//
// Neither touches a device: both work on bytes that the caller read once. What is accepted is what is opened.
//
// The format is a subset of the LUKS2 On-Disk Format Specification 1.1.3 and can be opened with stock cryptsetup and
// the disk's key.
//
// Trust boundary: the bytes are the attacker's; keys are the caller's. Not guaranteed: freshness (an old header of ours
// is authentic; package disk detects it by its generation), and that key slots hold the key (see [Header.Unlock],
// which finds out).
package luks2

// What every header has. Sizes and offsets in bytes.
const (
	// Label tells our disks from others; it proves nothing.
	Label = "constellation-state"
	// TokenType is the type of the token that holds the MAC and the generation.
	TokenType = "constellation-state-disk"

	// HeaderSize is the size of each of the two copies of the header, binary part and metadata.
	HeaderSize = 16 << 10
	// DataOffset is where the encrypted data begins.
	DataOffset = 16 << 20
	// SectorSize is the unit of encryption.
	SectorSize = 4096

	// KeySize is the size of the disk's key, which opens a key slot.
	KeySize = 32
	// VolumeKeySize is the size of the key that encrypts the data: 64 for AES-256-XTS, 32 for HMAC-SHA256.
	VolumeKeySize = 96

	// Slots is the number of key slots: one, and one more while the key is being replaced.
	Slots = 2
	// SlotOffset is where the first slot's area begins.
	SlotOffset = 2 * HeaderSize
	// SlotSize is the size of a slot's area: the volume key in 4000 stripes, in whole blocks.
	SlotSize = (stripes*VolumeKeySize + blockSize - 1) / blockSize * blockSize

	// AreaSize is the size of everything that is read of a disk before it is opened.
	AreaSize = SlotOffset + Slots*SlotSize
)

const (
	blockSize    = 4096
	binarySize   = 4096
	metadataSize = HeaderSize - binarySize

	version   = 2
	magic     = "LUKS\xba\xbe"
	magicCopy = "SKUL\xba\xbe"

	cipher    = "aes-xts-plain64"
	integrity = "hmac(sha256)"
	hash      = "sha256"
	none      = "none"

	slotKeySize = 64
	stripes     = 4000
	// The disk's key is random and 32 bytes long: stretching it would cost time and gain nothing. 1000 is the least
	// that cryptsetup writes itself.
	iterations = 1000
	saltSize   = 32
	digestSize = 32
)
