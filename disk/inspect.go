// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/constellation-os/constellation/disk/luks2"
)

// Kind says what a disk is, as far as can be told without its key.
type Kind string

// Kinds of disks.
const (
	Fresh   Kind = "fresh"   // blank, or its formatting never finished: there is nothing to lose
	Ours    Kind = "ours"    // it has the header of a state disk, which only its key can authenticate
	Foreign Kind = "foreign" // it holds something else
	Damaged Kind = "damaged" // it was a state disk, and neither copy of its header can be read
)

// Inspection is what a disk shows to everybody.
type Inspection struct {
	Kind Kind
	// UUID is the disk's name, if it is ours. It is the host's word until the disk is opened.
	UUID string
	// Detail says what was found, for people.
	Detail string
	// Size is the disk's size in bytes.
	Size int64
}

// marker begins a disk that is being formatted.
const marker = "constellation: this disk is being formatted\n"

// blankArea is how much of a disk's beginning and end must be zero for the disk to be blank.
const blankArea = 1 << 20

// Inspect looks at a disk without writing to it. Nothing that it says is proven.
func Inspect(device Device) (Inspection, error) {
	size, err := device.Size()
	if err != nil {
		return Inspection{}, fmt.Errorf("ask for the disk's size: %w", err)
	}
	in := Inspection{Size: size}
	begin, err := readUpTo(device, 0, max(blankArea, luks2.AreaSize))
	if err != nil {
		return Inspection{}, err
	}
	end, err := readUpTo(device, max(0, size-blankArea), blankArea)
	if err != nil {
		return Inspection{}, err
	}
	in.Kind, in.UUID, in.Detail = judge(begin, end)
	return in, nil
}

func readUpTo(device Device, at int64, size int) ([]byte, error) {
	data := make([]byte, size)
	n, err := device.ReadAt(data, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the disk: %w", err)
	}
	return data[:n], nil
}

func judge(begin, end []byte) (kind Kind, uuid, detail string) {
	if bytes.HasPrefix(begin, []byte(marker)) {
		return Fresh, "", "its formatting never finished"
	}
	if zero(begin) && zero(end) {
		return Fresh, "", "it is blank"
	}
	var refusals [2]error
	for _, which := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		if len(begin) < luks2.AreaSize {
			break
		}
		header, err := luks2.Parse(begin[which.Offset():][:luks2.HeaderSize], which)
		if err == nil {
			return Ours, header.UUID, "a state disk"
		}
		refusals[which] = err
	}
	for _, err := range refusals {
		switch luks2.ReasonOf(err) {
		case luks2.ReasonNoHeader, luks2.ReasonVersion, luks2.ReasonForeign, "":
		default:
			if bytes.Contains(begin[:min(len(begin), luks2.SlotOffset)], []byte(luks2.Label)) {
				return Damaged, "", err.Error()
			}
		}
	}
	return Foreign, "", describe(begin, end)
}

// unformatted says whether an area shows that the disk has never been ours.
func unformatted(area []byte) bool {
	return bytes.HasPrefix(area, []byte(marker)) || zero(area[:luks2.SlotOffset])
}

func zero(data []byte) bool { return len(bytes.TrimLeft(data, "\x00")) == 0 }

// signatures of what people put on disks.
var signatures = []struct {
	at   int
	text string
	what string
}{
	{0, "LUKS\xba\xbe", "another LUKS disk"},
	{luks2.HeaderSize, "SKUL\xba\xbe", "another LUKS disk whose first header is gone"},
	{512, "EFI PART", "a GPT partition table"},
	{4096, "EFI PART", "a GPT partition table"},
	{1080, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an XFS file system"},
	{65600, "_BHRfS_M", "a Btrfs file system"},
	{512, "LABELONE", "an LVM volume"},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system"},
	{510, "\x55\xaa", "an MBR partition table or boot sector"},
}

func describe(begin, end []byte) string {
	for _, s := range signatures {
		if len(begin) > s.at && bytes.HasPrefix(begin[s.at:], []byte(s.text)) {
			return s.what
		}
	}
	if zero(begin) && !zero(end) {
		return "data at its end"
	}
	return "data of unknown kind"
}
