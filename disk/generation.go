// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"

	"github.com/constellation-os/constellation/disk/luks2"
)

// A Witness remembers, out of the host's reach, the generation of each disk.
type Witness interface {
	// Advance records that the disk goes from one generation to the next, as [Judge] decides. It may be called again
	// for the same step, after an answer was lost. A refusal is a [*RollbackError].
	Advance(ctx context.Context, uuid string, from, to Generation) error
}

// Judge is the witness's decision: what it knows after a disk has asked to go from one generation to another.
// known is the zero value for a disk that it has never heard of.
//
//	known == from   the disk is what it was when it was last opened: it goes on
//	known == to     it asks again, because it did not get the answer
//	else            it is another, older disk
func Judge(uuid string, known, from, to Generation) (Generation, error) {
	if known == from || known == to {
		return to, nil
	}
	return known, &RollbackError{UUID: uuid, Disk: from, Known: known}
}

// Unwitnessed is a witness that accepts every disk, the oldest copy too. It is for clusters that have nobody who could
// remember: the first node's first start, and recovery when all else is gone.
func Unwitnessed() Witness { return unwitnessed{} }

type unwitnessed struct{}

func (unwitnessed) Advance(context.Context, string, Generation, Generation) error { return nil }

// advance takes an authenticated disk to its next generation. What is about to come is on the disk before the witness
// is asked, so that a power cut at any moment leaves a disk whose step the witness accepts.
func (h *held) advance(ctx context.Context, device Device, key luks2.MACKey, w Witness) error {
	slot := h.header.Slots[h.slot]
	other := h.other()
	if slot.Next == luks2.None || other != nil || h.stale {
		if slot.Next == luks2.None {
			slot.Next = slot.Current.After()
		}
		h.header.Slots[1-h.slot] = nil // a key that was about to come or to go: this one opens the disk
		if err := h.commit(device, key); err != nil {
			return err
		}
	}
	if other != nil {
		if err := h.wipeOther(device); err != nil {
			return err
		}
	}
	if err := w.Advance(ctx, h.header.UUID, slot.Current, slot.Next); err != nil {
		return err
	}
	slot.Current, slot.Next = slot.Next, luks2.None
	return h.commit(device, key)
}
