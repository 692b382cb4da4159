// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/constellation-os/constellation/disk/luks2"
)

// Device is a disk as its owner, the host, shows it.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written is on the disk.
	Sync() error
	// Size is the disk's size in bytes.
	Size() (int64, error)
}

// fileDevice is a block device or a file.
type fileDevice struct{ *os.File }

func (f fileDevice) Size() (int64, error) { return f.Seek(0, io.SeekEnd) }

// OpenDevice opens the disk's device.
func OpenDevice(path string) (interface {
	Device
	io.Closer
}, error) {
	return openFile(path)
}

func openFile(path string) (fileDevice, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	return fileDevice{file}, err
}

// held is a header in memory, with the areas of its key slots: the copy that everything is done with.
type held struct {
	header *luks2.Header
	areas  [luks2.Slots][]byte
	slot   int        // the slot that belongs to the key
	from   luks2.Copy // which copy on the disk it was
	stale  bool       // the other copy is not the same header
}

func (h *held) other() *luks2.Slot { return h.header.Slots[1-h.slot] }

// load reads the disk's header, once, and returns it if it is authentic. Of two authentic copies the later counts.
func load(device Device, key luks2.MACKey) (*held, error) {
	area := make([]byte, luks2.AreaSize)
	if _, err := device.ReadAt(area, 0); errors.Is(err, io.EOF) {
		return nil, ErrTooSmall // a disk that was taken away has no bytes at all
	} else if err != nil {
		return nil, fmt.Errorf("read the disk's header: %w", err)
	}
	if unformatted(area) {
		return nil, ErrNotOurs
	}
	var found [2]*luks2.Header
	var slots [2]int
	var refusals [2]error
	for _, which := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		found[which], slots[which], refusals[which] = authentic(area, which, key)
	}
	best := luks2.Primary
	if found[luks2.Primary] == nil || found[luks2.Secondary] != nil && found[luks2.Secondary].Sequence > found[luks2.Primary].Sequence {
		best = luks2.Secondary
	}
	if found[best] == nil {
		return nil, preferred(refusals)
	}
	h := &held{header: found[best], slot: slots[best], from: best}
	h.stale = found[1-best] == nil || found[1-best].Sequence != found[best].Sequence
	for i := range h.areas {
		begin := luks2.SlotOffset + i*luks2.SlotSize
		h.areas[i] = area[begin : begin+luks2.SlotSize]
	}
	return h, nil
}

func authentic(area []byte, which luks2.Copy, key luks2.MACKey) (*luks2.Header, int, error) {
	header, err := luks2.Parse(area[which.Offset():][:luks2.HeaderSize], which)
	if err != nil {
		return nil, 0, err
	}
	slot, err := header.Authenticate(key)
	if err != nil {
		return nil, 0, err
	}
	return header, slot, nil
}

// preferred is the refusal to report: of the first copy, unless that says less.
func preferred(refusals [2]error) error {
	if luks2.ReasonOf(refusals[luks2.Primary]) == luks2.ReasonNoHeader || luks2.ReasonOf(refusals[luks2.Secondary]) == luks2.ReasonUnauthentic {
		return refusals[luks2.Secondary]
	}
	return refusals[luks2.Primary]
}

// commit writes the header, signed by the one key that it has a slot for, as its next version.
func (h *held) commit(device Device, key luks2.MACKey) error {
	return h.commitWith(device, [luks2.Slots]luks2.MACKey{key, key})
}

// commitWith writes the copy first that does not hold what is in force, and the other when that is safely there.
func (h *held) commitWith(device Device, keys [luks2.Slots]luks2.MACKey) error {
	h.header.Sequence++
	h.header.Sign(keys)
	for _, which := range []luks2.Copy{1 - h.from, h.from} {
		if err := write(device, h.header.Encode(which), which.Offset()); err != nil {
			return err
		}
	}
	h.stale = false
	return nil
}

// write writes and waits until it is on the disk.
func write(device Device, data []byte, at int64) error {
	if _, err := device.WriteAt(data, at); err != nil {
		return fmt.Errorf("write to the disk: %w", err)
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("write to the disk: %w", err)
	}
	return nil
}
