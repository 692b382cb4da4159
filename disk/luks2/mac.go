// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

const macSize = sha256.Size

// macLabel separates the key of the MAC from all other uses of the disk's key.
const macLabel = "constellation/v1/state-disk/header"

// Generation is a version of the disk's content: the disk goes to a new one each time that it is opened.
type Generation struct {
	// Number counts, for people.
	Number uint64 `json:"number"`
	// ID is random: 32 hexadecimal digits, or nothing where there is no generation.
	ID string `json:"id"`
}

// None is the generation before the first.
var None = Generation{}

// After returns a new generation that follows g.
func (g Generation) After() Generation {
	var id [16]byte
	rand.Read(id[:])
	return Generation{Number: g.Number + 1, ID: hex.EncodeToString(id[:])}
}

// valid says whether a generation is one or none.
func (g Generation) valid() bool {
	if g == None {
		return true
	}
	id, err := hex.DecodeString(g.ID)
	return err == nil && len(id) == 16 && hex.EncodeToString(id) == g.ID && g.Number > 0
}

// A MACKey authenticates headers. It is derived from the disk's key and useless for anything else.
type MACKey [sha256.Size]byte

// NewMACKey derives the key for headers of the disk with that key.
func NewMACKey(key []byte) (MACKey, error) {
	if len(key) != KeySize {
		return MACKey{}, errors.New("a disk's key has 32 bytes")
	}
	derived, err := hkdf.Key(sha256.New, key, nil, macLabel, sha256.Size)
	if err != nil {
		return MACKey{}, err
	}
	return MACKey(derived), nil
}

// mac is computed over the primary copy as it is without checksum and MACs. Both copies so have the same.
func (h *Header) mac(key MACKey) [macSize]byte {
	bare := *h
	for i, slot := range h.Slots {
		if slot != nil {
			blank := *slot
			blank.MAC = [macSize]byte{}
			bare.Slots[i] = &blank
		}
	}
	m := hmac.New(sha256.New, key[:])
	m.Write(bytes.TrimRight(bare.body(Primary), "\x00")) // metadata ends in a brace
	return [macSize]byte(m.Sum(nil))
}

// Authenticate finds the slot that belongs to the key, by a MAC over the whole header. Whether the key is wrong or the
// header was changed cannot be told apart, and is not: the reason is [ReasonUnauthentic].
func (h *Header) Authenticate(key MACKey) (slot int, err error) {
	want := h.mac(key)
	for i, s := range h.Slots {
		if s != nil && hmac.Equal(s.MAC[:], want[:]) {
			return i, nil
		}
	}
	return 0, refuse(ReasonUnauthentic, "no token has a MAC under this key: it is another disk's key, or the header was changed")
}

// Sign sets the MACs of the slots. keys holds one key for each slot that there is.
func (h *Header) Sign(keys [Slots]MACKey) {
	var sums [Slots][macSize]byte
	for i, slot := range h.Slots {
		if slot != nil {
			sums[i] = h.mac(keys[i])
		}
	}
	for i, slot := range h.Slots {
		if slot != nil {
			slot.MAC = sums[i]
		}
	}
}
