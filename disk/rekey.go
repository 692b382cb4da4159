// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/disk/luks2"
)

// Rekey replaces the key that opens the disk. The data is not encrypted anew: the volume key stays. The new key's slot
// is written and read back before the old one's goes, so that after a power cut at any write one of the two keys opens
// the disk; Rekey can then be called again with both, and does nothing if it was done. It returns nil only when the new
// key opens the disk and the old one does not. The disk may be open meanwhile.
func Rekey(device Device, old, next []byte) error {
	oldMAC, err := luks2.NewMACKey(old)
	if err != nil {
		return err
	}
	nextMAC, err := luks2.NewMACKey(next)
	if err != nil {
		return err
	}
	if oldMAC == nextMAC {
		return errors.New("the new key is the old one")
	}
	if h, err := load(device, nextMAC); err == nil {
		return h.dropOther(device, next, nextMAC)
	}
	h, err := load(device, oldMAC)
	if err != nil {
		return err
	}
	if err := h.addSlot(device, old, next, oldMAC, nextMAC); err != nil {
		return err
	}
	if h, err = load(device, nextMAC); err != nil {
		return fmt.Errorf("read the new key slot back: %w", err)
	}
	return h.dropOther(device, next, nextMAC)
}

// addSlot gives the header a slot for the next key beside that of the old.
func (h *held) addSlot(device Device, old, next []byte, oldMAC, nextMAC luks2.MACKey) error {
	volumeKey, err := h.header.Unlock(h.slot, h.areas[h.slot], old)
	if err != nil {
		return err
	}
	defer clear(volumeKey)
	if h.other() != nil {
		// Another key was about to come and never did. Its slot is in use until no header says so.
		h.header.Slots[1-h.slot] = nil
		if err := h.commit(device, oldMAC); err != nil {
			return err
		}
	}
	mine := h.header.Slots[h.slot]
	slot := &luks2.Slot{Current: mine.Current, Next: mine.Next}
	area, err := slot.Seal(next, volumeKey)
	if err != nil {
		return err
	}
	number := 1 - h.slot
	if err := write(device, area, slotOffset(number)); err != nil {
		return err
	}
	h.header.Slots[number] = slot
	var keys [luks2.Slots]luks2.MACKey
	keys[h.slot], keys[number] = oldMAC, nextMAC
	return h.commitWith(device, keys)
}

// dropOther leaves only the slot of the key, having seen that it works.
func (h *held) dropOther(device Device, key []byte, mac luks2.MACKey) error {
	volumeKey, err := h.header.Unlock(h.slot, h.areas[h.slot], key)
	if err != nil {
		return err
	}
	clear(volumeKey)
	if h.other() != nil || h.stale {
		h.header.Slots[1-h.slot] = nil
		if err := h.commit(device, mac); err != nil {
			return err
		}
	}
	// Always: whether an earlier call came as far as this cannot be seen.
	return h.wipeOther(device)
}

// wipeOther overwrites the area of the slot that is not used. A disk may keep what was overwritten: it is the MAC, not
// this, that keeps the old key out.
func (h *held) wipeOther(device Device) error {
	noise := make([]byte, luks2.SlotSize)
	rand.Read(noise)
	return write(device, noise, slotOffset(1-h.slot))
}

func slotOffset(number int) int64 { return luks2.SlotOffset + int64(number)*luks2.SlotSize }
