// SPDX-License-Identifier: Apache-2.0

// Package disk writes the bootable disk: a GUID partition table with the EFI system partition, the root and the hash
// tree of the root.
//
// The partitions have the types of the UAPI group's Discoverable Partitions Specification, and root and tree the
// identifiers that follow from the root hash, by which the initrd finds them. All other identifiers are hashes of
// the content too, so that equal content gives an equal disk.
//
// The disk is a sparse file: what is zero takes no room.
package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/constellation-os/constellation/image/fat"
	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/gpt"
)

const (
	// alignment of partitions in bytes, which suits every disk and cloud.
	alignment = 1 << 20
	// espSize has room for a second image beside the first.
	espSize = 64 << 20
	// BootPath is where firmware looks for the program of a disk that it has no boot entry for.
	BootPath = "EFI/BOOT/BOOTX64.EFI"
)

// Contents are what the partitions hold.
type Contents struct {
	// UKI is the unified kernel image that firmware starts.
	UKI []byte
	// Root is the root file system and Tree its verity partition, whole blocks both.
	Root, Tree []byte
	// Hash is the root hash.
	Hash verity.RootHash
}

// Write writes the disk to w, which must read as zeros where it is not written, and returns the disk's size in bytes.
// The caller makes the file that long.
func Write(w io.WriterAt, c Contents) (int64, error) {
	dataID, treeID := c.Hash.PartitionIDs()
	table := gpt.Table{DiskID: derive(c.Hash, "disk")}
	next := int64(alignment)
	add := func(name string, kind, id gpt.GUID, size int64) int64 {
		start := next
		next = (start + size + alignment - 1) / alignment * alignment
		table.Partitions = append(table.Partitions, gpt.Partition{
			Type: kind, ID: id, Name: name,
			FirstLBA: uint64(start / gpt.SectorSize), LastLBA: uint64(next/gpt.SectorSize - 1),
		})
		return start
	}
	esp := add("esp", gpt.TypeESP, derive(c.Hash, "esp"), espSize)
	root := add("root", gpt.TypeRoot, gpt.FromUUID(dataID), int64(len(c.Root)))
	tree := add("root-verity", gpt.TypeRootVerity, gpt.FromUUID(treeID), int64(len(c.Tree)))
	size := next + alignment

	head, tail, err := table.Encode(size)
	if err != nil {
		return 0, fmt.Errorf("partition table: %w", err)
	}
	volumeID := derive(c.Hash, "volume")
	volume := fat.Volume{
		Size: espSize, ID: binary.LittleEndian.Uint32(volumeID[:]), Label: "ESP",
		Files: []fat.File{{Path: BootPath, Content: c.UKI}},
	}
	if err := volume.Write(w, esp); err != nil {
		return 0, fmt.Errorf("EFI system partition: %w", err)
	}
	for _, piece := range []struct {
		at   int64
		data []byte
	}{
		{0, head}, {root, c.Root}, {tree, c.Tree}, {size - int64(len(tail)), tail},
	} {
		if err := writeSparse(w, piece.at, piece.data); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// derive makes an identifier from the root hash: a version 8 UUID (RFC 9562, section 5.8) of a hash with a label.
func derive(hash verity.RootHash, label string) gpt.GUID {
	digest := sha256.Sum256(append([]byte("constellation disk "+label+"\x00"), hash[:]...))
	id := [16]byte(digest[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return gpt.FromUUID(id)
}

// writeSparse leaves blocks of zeros out.
func writeSparse(w io.WriterAt, at int64, data []byte) error {
	const block = 4096
	zero := make([]byte, block)
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && !bytes.Equal(data[end:min(end+block, len(data))], zero[:min(block, len(data)-end)]) {
			end = min(end+block, len(data))
		}
		if _, err := w.WriteAt(data[start:end], at+int64(start)); err != nil {
			return fmt.Errorf("write disk: %w", err)
		}
		start = min(end+block, len(data))
	}
	return nil
}
