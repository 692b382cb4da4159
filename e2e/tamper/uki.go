// SPDX-License-Identifier: Apache-2.0

package tamper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// CommandLine replaces a part of the measured kernel command line by another of
// the same length.
func (d *Disk) CommandLine(old, replacement string) error {
	content, s, uki, err := d.section(".cmdline")
	if err != nil {
		return err
	}
	at := bytes.Index(content, []byte(old))
	if at < 0 || len(old) != len(replacement) {
		return fmt.Errorf("cannot replace %q by %q in the command line %q", old, replacement, content)
	}
	_, err = d.file.WriteAt([]byte(replacement), uki+int64(s.Offset)+int64(at))
	return err
}

// Section flips one bit in the middle of a section of the boot program.
func (d *Disk) Section(name string) error {
	content, s, uki, err := d.section(name)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return fmt.Errorf("section %s is empty", name)
	}
	return d.flip(uki + int64(s.Offset) + int64(len(content)/2))
}

// Initrd changes one character of the archive: the modification time of one of
// its files. The machine boots with it as before.
func (d *Disk) Initrd() error {
	compressed, s, uki, err := d.section(".initrd")
	if err != nil {
		return err
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer decoder.Close()
	archive, err := decoder.DecodeAll(compressed, nil)
	if err != nil {
		return fmt.Errorf("unpack the initrd: %w", err)
	}
	for entry := range cpioEntries(archive) {
		changed := bytes.Clone(archive)
		changed[entry+cpioTime+7] = '1'
		packed, err := repack(changed)
		if err != nil {
			return err
		}
		if len(packed) > int(s.RawSize) {
			continue // another file's time may pack better
		}
		return d.putInitrd(packed, uki, int64(s.Offset), int(s.VirtualSize), s.Name)
	}
	return errors.New("no changed initrd fits in the place of the old")
}

// The "newc" format of cpio: a header of 13 fields of 8 hexadecimal digits after
// a magic of 6, the name, the content, both padded to 4 bytes.
const (
	cpioHeader = 110
	cpioTime   = 6 + 5*8
	cpioSize   = 6 + 6*8
	cpioName   = 6 + 11*8
)

// cpioEntries yields the offset of each regular file's header.
func cpioEntries(archive []byte) func(func(int) bool) {
	return func(yield func(int) bool) {
		for at := 0; at+cpioHeader <= len(archive); {
			var size, name, mode int
			for field, to := range map[int]*int{cpioSize: &size, cpioName: &name, 6 + 8: &mode} {
				if _, err := fmt.Sscanf(string(archive[at+field:at+field+8]), "%x", to); err != nil {
					return
				}
			}
			if mode&0o170000 == 0o100000 && !yield(at) {
				return
			}
			at = align4(align4(at+cpioHeader+name) + size)
		}
	}
}

func align4(n int) int { return (n + 3) &^ 3 }

// repack compresses as the image's build does.
func repack(archive []byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	defer encoder.Close()
	return encoder.EncodeAll(archive, nil), nil
}

// putInitrd writes the section's new content and, if it is longer, its size. A
// shorter one is padded with zeros, which the kernel skips.
func (d *Disk) putInitrd(packed []byte, uki, offset int64, size int, name string) error {
	if len(packed) < size {
		packed = append(packed, make([]byte, size-len(packed))...)
	}
	if _, err := d.file.WriteAt(packed, uki+offset); err != nil {
		return err
	}
	header := make([]byte, 4096)
	if _, err := d.file.ReadAt(header, uki); err != nil {
		return err
	}
	at := bytes.Index(header, append([]byte(name), 0))
	if at < 0 {
		return errors.New("the section's header is not where it should be")
	}
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(packed)))
	_, err := d.file.WriteAt(length[:], uki+int64(at)+8)
	return err
}
