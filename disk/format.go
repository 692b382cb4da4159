// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/disk/luks2"
)

// FormatOptions say how a disk is formatted.
type FormatOptions struct {
	// UUID names the disk. It was chosen before the key was asked for, which is for this name.
	UUID string
	// Key is the disk's key.
	Key []byte
	// Take allows to format a disk that is not fresh, and lose what it holds.
	Take bool
}

// NewUUID chooses a name for a disk that is about to be formatted (RFC 9562, version 4).
func NewUUID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// filler fills the data area: it makes the encrypted volume and the file system on it, and is done when all is on the disk.
type filler func(ctx context.Context, volumeKey []byte) error

// format makes the disk ours. The last write, of one sector, does: until then the disk is fresh, whatever happens.
func format(ctx context.Context, device Device, o FormatOptions, fill filler) error {
	if !luks2.ValidUUID(o.UUID) {
		return errors.New("the disk's name is not a UUID in lower case")
	}
	mac, err := luks2.NewMACKey(o.Key)
	if err != nil {
		return err
	}
	in, err := Inspect(device)
	if err != nil {
		return err
	}
	if in.Size < MinSize {
		return ErrTooSmall
	}
	if in.Kind != Fresh && !o.Take {
		return fmt.Errorf("%w: it is %s (%s)", ErrHoldsSomething, in.Kind, in.Detail)
	}
	if err := clearArea(device); err != nil {
		return err
	}
	volumeKey := make([]byte, luks2.VolumeKeySize)
	defer clear(volumeKey)
	rand.Read(volumeKey)
	if err := fill(ctx, volumeKey); err != nil {
		return err
	}
	return finish(device, o, mac, volumeKey)
}

// clearArea takes away what the disk was, beginning with the mark that it is being formatted.
func clearArea(device Device) error {
	begin := make([]byte, markerSize)
	copy(begin, marker)
	if err := write(device, begin, 0); err != nil {
		return err
	}
	if err := write(device, make([]byte, luks2.AreaSize-markerSize), markerSize); err != nil {
		return err
	}
	// Zeros are what the kernel formats; anything else it takes for a superblock.
	return write(device, make([]byte, superblockSize), luks2.DataOffset)
}

const (
	// markerSize is the size of the header's part that says what it is, which is replaced in one write. All that has a
	// meaning in it lies in its first 512 bytes: a disk's smallest sector.
	markerSize     = 4096
	superblockSize = 4096
)

// finish writes the header, its beginning last.
func finish(device Device, o FormatOptions, mac luks2.MACKey, volumeKey []byte) error {
	// The first generation is the one that opening the disk goes to.
	slot := &luks2.Slot{Next: luks2.None.After()}
	area, err := slot.Seal(o.Key, volumeKey)
	if err != nil {
		return err
	}
	header := &luks2.Header{UUID: o.UUID, Sequence: 1, Slots: [luks2.Slots]*luks2.Slot{slot}}
	rand.Read(header.Salt[:])
	if header.Digest, err = luks2.NewDigest(volumeKey); err != nil {
		return err
	}
	header.Sign([luks2.Slots]luks2.MACKey{mac})
	primary := header.Encode(luks2.Primary)
	for _, part := range []struct {
		data []byte
		at   int64
	}{
		{area, slotOffset(0)},
		{header.Encode(luks2.Secondary), luks2.Secondary.Offset()},
		{primary[markerSize:], markerSize},
		{primary[:markerSize], 0},
	} {
		if err := write(device, part.data, part.at); err != nil {
			return err
		}
	}
	return nil
}
