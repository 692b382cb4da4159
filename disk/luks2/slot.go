// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"strconv"

	"golang.org/x/crypto/xts"
)

// Slot is a key slot with its token. What it holds, the volume key encrypted, is in its area.
type Slot struct {
	// Salt is for the derivation of the key that encrypts the area.
	Salt [saltSize]byte
	// MAC authenticates the header under the key that opens the slot.
	MAC [macSize]byte
	// Current and Next are the disk's generation, and what it is about to become.
	Current, Next Generation
}

// Digest is what the volume key is recognised by.
type Digest struct {
	Salt [saltSize]byte
	Sum  [digestSize]byte
}

func (s *Slot) keyslot(number int) keyslot {
	k := keyslot{Type: "luks2", KeySize: VolumeKeySize}
	k.AF.Type, k.AF.Stripes, k.AF.Hash = "luks1", stripes, hash
	k.Area.Type, k.Area.Encryption, k.Area.KeySize = "raw", cipher, slotKeySize
	k.Area.Offset, k.Area.Size = strconv.Itoa(SlotOffset+number*SlotSize), strconv.Itoa(SlotSize)
	k.KDF.Type, k.KDF.Hash, k.KDF.Iterations, k.KDF.Salt = "pbkdf2", hash, iterations, s.Salt[:]
	return k
}

func (s *Slot) token(number int) token {
	return token{
		Type: TokenType, Keyslots: []string{strconv.Itoa(number)}, Version: tokenVersion,
		Current: s.Current, Next: s.Next, MAC: s.MAC[:],
	}
}

// NewDigest makes the digest of a volume key.
func NewDigest(volumeKey []byte) (Digest, error) {
	var d Digest
	rand.Read(d.Salt[:])
	sum, err := d.sum(volumeKey)
	if err != nil {
		return Digest{}, err
	}
	d.Sum = [digestSize]byte(sum)
	return d, nil
}

func (d *Digest) sum(volumeKey []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(volumeKey), d.Salt[:], iterations, digestSize)
}

// Seal makes a slot's area: the volume key, to be opened with key. It gives the slot a new salt.
func (s *Slot) Seal(key, volumeKey []byte) ([]byte, error) {
	rand.Read(s.Salt[:])
	c, err := s.cipher(key)
	if err != nil {
		return nil, err
	}
	area := make([]byte, SlotSize)
	split(area[:stripes*VolumeKeySize], volumeKey)
	// The area is longer than the stripes by a part of a block: random, so that it shows nothing.
	rand.Read(area[stripes*VolumeKeySize:])
	for i := 0; i < stripes*VolumeKeySize; i += slotSector {
		c.Encrypt(area[i:i+slotSector], area[i:i+slotSector], uint64(i/slotSector))
	}
	return area, nil
}

// slotSector is the unit in which areas are encrypted, whatever the data's is.
const slotSector = 512

func (s *Slot) cipher(key []byte) (*xts.Cipher, error) {
	derived, err := pbkdf2.Key(sha256.New, string(key), s.Salt[:], iterations, slotKeySize)
	if err != nil {
		return nil, err
	}
	defer clear(derived)
	return xts.NewCipher(aes.NewCipher, derived)
}

// Unlock takes the volume key out of the slot's area. An authentic header whose slot does not hold the volume key is
// refused with [ReasonSlotContent]: the MAC does not cover the areas, the digest that it covers does.
func (h *Header) Unlock(number int, area, key []byte) ([]byte, error) {
	slot := h.Slots[number]
	if slot == nil || len(area) != SlotSize {
		return nil, refuse(ReasonSlotContent, "there is no key slot %d", number)
	}
	c, err := slot.cipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, stripes*VolumeKeySize)
	defer clear(plain)
	for i := 0; i < len(plain); i += slotSector {
		c.Decrypt(plain[i:i+slotSector], area[i:i+slotSector], uint64(i/slotSector))
	}
	volumeKey := merge(plain)
	sum, err := h.Digest.sum(volumeKey)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(sum, h.Digest.Sum[:]) != 1 {
		clear(volumeKey)
		return nil, refuse(ReasonSlotContent, "key slot %d does not hold the volume key", number)
	}
	return volumeKey, nil
}

// split spreads a key over all of area, so that it is gone when any part of that is (TKS1, LUKS1 specification 2.4).
func split(area, key []byte) {
	rand.Read(area[:len(area)-len(key)])
	sum := make([]byte, len(key))
	for i := 0; i < len(area)-len(key); i += len(key) {
		subtle.XORBytes(sum, sum, area[i:i+len(key)])
		diffuse(sum)
	}
	subtle.XORBytes(area[len(area)-len(key):], sum, key)
	clear(sum)
}

func merge(area []byte) []byte {
	sum := make([]byte, VolumeKeySize)
	last := len(area) - VolumeKeySize
	for i := 0; i < last; i += VolumeKeySize {
		subtle.XORBytes(sum, sum, area[i:i+VolumeKeySize])
		diffuse(sum)
	}
	subtle.XORBytes(sum, sum, area[last:])
	return sum
}

// diffuse replaces each part of the size of a hash by the hash of its number and itself.
func diffuse(block []byte) {
	var input [4 + sha256.Size]byte
	for i := 0; i < len(block); i += sha256.Size {
		binary.BigEndian.PutUint32(input[:], uint32(i/sha256.Size))
		copy(input[4:], block[i:])
		sum := sha256.Sum256(input[:4+min(sha256.Size, len(block)-i)])
		copy(block[i:], sum[:])
	}
}
