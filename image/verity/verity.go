// SPDX-License-Identifier: Apache-2.0

// Package verity computes the hash tree that the kernel's dm-verity checks a read-only file system against, and
// holds the parameters that the builder of the image and its initrd must agree on.
//
// The tree has the on-disk format of version 1 (the kernel's Documentation/admin-guide/device-mapper/verity.rst):
// SHA-256, blocks of 4096 bytes for data and tree, no salt. A salt keeps an attacker from looking for a collision in
// many images at once; nobody is known to find even one for SHA-256, and without it the root hash is a function of
// the file system's content alone, which is what reproducibility asks for.
//
// A superblock in the format of cryptsetup goes in front of the tree so that veritysetup can be used on the image by
// hand. The machine itself never reads it, see the command init.
package verity

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	// BlockSize is the size, in bytes, of the blocks of data and of the tree.
	BlockSize = 4096
	// treeStart is the block of the hash partition at which the tree starts, after the superblock.
	treeStart = 1
	// MaxBlocks is the most blocks of data that are accepted: 1 TiB.
	MaxBlocks = 1 << 28
	// digestsPerBlock is how many hashes fit in a block of the tree.
	digestsPerBlock = BlockSize / sha256.Size
)

// Parameters of the kernel command line.
const (
	// HashParameter names the root hash in hexadecimal digits, as systemd does.
	HashParameter = "roothash"
	// BlocksParameter names the number of data blocks, in decimal digits.
	BlocksParameter = "constellation.rootblocks"
)

// RootHash is the hash of the topmost block of a tree.
type RootHash [sha256.Size]byte

// ParseRootHash reads a root hash from lower-case hexadecimal digits.
func ParseRootHash(text string) (RootHash, error) {
	var hash RootHash
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(hash) || hex.EncodeToString(raw) != text {
		return hash, fmt.Errorf("root hash is not %d lower-case hexadecimal digits", 2*len(hash))
	}
	return RootHash(raw), nil
}

// String returns the hash in lower-case hexadecimal digits.
func (h RootHash) String() string { return hex.EncodeToString(h[:]) }

// PartitionID is the unique identifier of a GPT partition, in the byte order of its text form.
type PartitionID [16]byte

// String returns the usual text form in lower case.
func (id PartitionID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

// PartitionIDs returns the identifiers of the partitions of data and tree: the first and the last 128 bits of the
// root hash, as the UAPI group's Discoverable Partitions Specification has it.
func (h RootHash) PartitionIDs() (data, tree PartitionID) {
	return PartitionID(h[:16]), PartitionID(h[16:])
}

// Table returns the parameters of a dm-verity target without optional ones. Devices are given as the kernel
// understands them, as a path or as major:minor.
func Table(hash RootHash, blocks uint64, data, tree string) string {
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s -", data, tree, BlockSize, BlockSize, blocks, treeStart, hash)
}

// Build reads the data to its end and returns the content of the hash partition, the root hash and the number of
// data blocks. Data must be a whole number of blocks.
func Build(data io.Reader) ([]byte, RootHash, uint64, error) {
	leaves, blocks, err := hashBlocks(data)
	if err != nil {
		return nil, RootHash{}, 0, err
	}
	// Of a single block the kernel takes the hash itself for the root hash, without a tree.
	if blocks < 2 || blocks > MaxBlocks {
		return nil, RootHash{}, 0, fmt.Errorf("%d blocks of data are not between 2 and %d", blocks, uint64(MaxBlocks))
	}
	levels := [][]byte{leaves}
	for len(levels[len(levels)-1]) > BlockSize {
		levels = append(levels, hashLevel(levels[len(levels)-1]))
	}
	// The topmost level comes first on disk.
	partition := superblock(blocks)
	for i := len(levels) - 1; i >= 0; i-- {
		partition = append(partition, levels[i]...)
	}
	return partition, sha256.Sum256(levels[len(levels)-1]), blocks, nil
}

// hashBlocks returns the lowest level of the tree, padded to whole blocks.
func hashBlocks(data io.Reader) (level []byte, blocks uint64, err error) {
	block := make([]byte, BlockSize)
	for {
		n, err := io.ReadFull(data, block)
		if errors.Is(err, io.EOF) {
			return padToBlock(level), blocks, nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, 0, fmt.Errorf("data ends with %d bytes of an incomplete block", n)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read data: %w", err)
		}
		digest := sha256.Sum256(block)
		level = append(level, digest[:]...)
		blocks++
	}
}

func hashLevel(below []byte) []byte {
	level := make([]byte, 0, len(below)/digestsPerBlock+BlockSize)
	for ; len(below) > 0; below = below[BlockSize:] {
		digest := sha256.Sum256(below[:BlockSize])
		level = append(level, digest[:]...)
	}
	return padToBlock(level)
}

func padToBlock(level []byte) []byte {
	if rest := len(level) % BlockSize; rest != 0 {
		level = append(level, make([]byte, BlockSize-rest)...)
	}
	return level
}

// superblock encodes cryptsetup's verity superblock, padded to a block. Its UUID is left zero: nothing refers to it.
func superblock(blocks uint64) []byte {
	block := make([]byte, treeStart*BlockSize)
	copy(block[0:], "verity\x00\x00")
	binary.LittleEndian.PutUint32(block[8:], 1)  // version of the superblock
	binary.LittleEndian.PutUint32(block[12:], 1) // type of the tree: 1, "normal"
	copy(block[32:64], "sha256")
	binary.LittleEndian.PutUint32(block[64:], BlockSize) // of the data
	binary.LittleEndian.PutUint32(block[68:], BlockSize) // of the tree
	binary.LittleEndian.PutUint64(block[72:], blocks)
	binary.LittleEndian.PutUint16(block[80:], 0) // bytes of salt
	return block
}
