// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/disk/luks2"
)

// fileSystemJournal is the size of the file system's journal in MiB: a part of the volume, and not more than what mke2fs,
// which writes all of it at once, writes in a second or two. By itself it would choose 1 GiB for a large disk. With less
// than 32 the kernel refuses to make the file system larger: the change would not fit into its journal.
func fileSystemJournal(volume int64) int64 { return min(max(volume>>20/128, 32), 64) }

func (v *Volume) makeFileSystem(ctx context.Context) error {
	if err := clearForFileSystem(v.Device); err != nil {
		return err
	}
	return run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(luks2.SectorSize), "-m", "1", "-L", "state",
		"-J", fmt.Sprintf("size=%d", fileSystemJournal(v.Size)), "-E", "lazy_itable_init=1,lazy_journal_init=0,nodiscard", v.Device)
}

// clearForFileSystem writes zeros to what mke2fs reads, or writes in parts of a sector: the ends of the device, where it
// looks whether something is there, and the copies of the superblock. What was never written cannot be read.
func clearForFileSystem(device string) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	zeros := make([]byte, endSize)
	for _, at := range []int64{0, size - endSize} {
		if _, err := file.WriteAt(zeros, at); err != nil {
			return fmt.Errorf("write to the volume: %w", err)
		}
	}
	for group := int64(1); group*groupSize < size-endSize; group++ {
		if !hasSuperblock(group) {
			continue
		}
		if _, err := file.WriteAt(zeros[:luks2.SectorSize], group*groupSize); err != nil {
			return fmt.Errorf("write to the volume: %w", err)
		}
	}
	return file.Sync()
}

const (
	endSize = 1 << 20
	// groupSize is the size of an ext4 block group: as many blocks as a block has bits.
	groupSize = 8 * luks2.SectorSize * luks2.SectorSize
)

// hasSuperblock says whether an ext4 group has a copy of the superblock (feature sparse_super): 1 and the powers of 3,
// 5 and 7.
func hasSuperblock(group int64) bool {
	for _, base := range []int64{3, 5, 7} {
		power := int64(1)
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// Grow lets the file system have all of the volume. It must be mounted: the kernel then makes it larger, and writes whole
// sectors only.
func (v *Volume) Grow(ctx context.Context) error {
	file, err := os.OpenFile(v.Device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	used, reserved, err := fileSystemSize(file)
	if err != nil {
		return err
	}
	if v.Size-used < luks2.SectorSize {
		return nil
	}
	if err := clearForGrowth(file, used, v.Size, reserved); err != nil {
		return err
	}
	return run(ctx, "resize2fs", v.Device)
}

// bitmapBlocks is more than what a new group has of bitmaps, its own and those of the groups that share its place.
const bitmapBlocks = 64

// clearForGrowth writes zeros to what the kernel reads behind the end of a file system that it makes larger: the last
// sector, to see whether there is room, and the bitmaps of new groups, to make checksums of them. They lie behind the
// superblock's copy, the descriptors and what is reserved for descriptors, where a group has these.
func clearForGrowth(volume fileWriter, used, size, reserved int64) error {
	const descriptorSize = 64
	groups := (size + groupSize - 1) / groupSize
	descriptors := (groups*descriptorSize + luks2.SectorSize - 1) / luks2.SectorSize
	zeros := make([]byte, (1+descriptors+reserved+bitmapBlocks)*luks2.SectorSize)
	for group := (used + groupSize - 1) / groupSize; group < groups; group++ {
		begin, length := group*groupSize, int64(bitmapBlocks*luks2.SectorSize)
		if hasSuperblock(group) {
			length = int64(len(zeros))
		}
		if _, err := volume.WriteAt(zeros[:min(length, size-begin)], begin); err != nil {
			return fmt.Errorf("write to the volume: %w", err)
		}
	}
	if _, err := volume.WriteAt(zeros[:luks2.SectorSize], size-luks2.SectorSize); err != nil {
		return fmt.Errorf("write to the volume: %w", err)
	}
	return volume.Sync()
}

type fileWriter interface {
	io.WriterAt
	Sync() error
}

// Fields of ext4's superblock (the kernel's Documentation/filesystems/ext4/super.rst).
const (
	superblockOffset = 1024
	offsetBlocksLow  = 0x4
	offsetMagic      = 0x38
	offsetReserved   = 0xce
	offsetBlocksHigh = 0x150
	fileSystemMagic  = 0xef53
)

// fileSystemSize returns the size of the file system in bytes, and the number of blocks that are reserved in some
// groups for descriptors of more groups. What is read is authentic.
func fileSystemSize(volume io.ReaderAt) (size, reserved int64, err error) {
	super := make([]byte, 1024)
	if _, err := volume.ReadAt(super, superblockOffset); err != nil {
		return 0, 0, fmt.Errorf("read the file system's superblock: %w", err)
	}
	if binary.LittleEndian.Uint16(super[offsetMagic:]) != fileSystemMagic {
		return 0, 0, errors.New("the volume has no file system")
	}
	blocks := uint64(binary.LittleEndian.Uint32(super[offsetBlocksHigh:]))<<32 | uint64(binary.LittleEndian.Uint32(super[offsetBlocksLow:]))
	return int64(blocks) * luks2.SectorSize, int64(binary.LittleEndian.Uint16(super[offsetReserved:])), nil
}

// run runs a program of e2fsprogs. What it says goes into the error: it has only seen what was authentic.
func run(ctx context.Context, name string, args ...string) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	var output bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(output.String()))
	}
	return nil
}
