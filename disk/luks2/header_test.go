// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const uuid = "01234567-89ab-cdef-0123-456789abcdef"

// disk is what a test starts from: a header with one slot, as the disk has it.
type disk struct {
	key, volumeKey []byte
	mac            MACKey
	header         *Header
	area           []byte
}

func newDisk(t testing.TB) *disk {
	t.Helper()
	key := make([]byte, KeySize)
	rand.Read(key)
	return diskOf(t, key)
}

func diskOf(t testing.TB, key []byte) *disk {
	t.Helper()
	d := &disk{key: key, volumeKey: make([]byte, VolumeKeySize)}
	rand.Read(d.volumeKey)
	var err error
	if d.mac, err = NewMACKey(d.key); err != nil {
		t.Fatal(err)
	}
	slot := &Slot{Current: None.After()}
	d.header = &Header{UUID: uuid, Sequence: 1, Slots: [Slots]*Slot{slot}}
	rand.Read(d.header.Salt[:])
	if d.area, err = slot.Seal(d.key, d.volumeKey); err != nil {
		t.Fatal(err)
	}
	if d.header.Digest, err = NewDigest(d.volumeKey); err != nil {
		t.Fatal(err)
	}
	d.header.Sign([Slots]MACKey{d.mac})
	return d
}

// accept is what opening a disk does with a copy of its header.
func accept(data []byte, which Copy, key MACKey) (*Header, int, error) {
	h, err := Parse(data, which)
	if err != nil {
		return nil, 0, err
	}
	slot, err := h.Authenticate(key)
	return h, slot, err
}

func TestBothCopiesAreAcceptedAndOpenTheVolumeKey(t *testing.T) {
	d := newDisk(t)
	for _, which := range []Copy{Primary, Secondary} {
		h, slot, err := accept(d.header.Encode(which), which, d.mac)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d.header, h); diff != "" {
			t.Errorf("copy %d is another header (-written +read):\n%s", which, diff)
		}
		volumeKey, err := h.Unlock(slot, d.area, d.key)
		if err != nil || !bytes.Equal(volumeKey, d.volumeKey) {
			t.Errorf("copy %d: the volume key is another, %v", which, err)
		}
		if _, err := Parse(d.header.Encode(which), 1-which); ReasonOf(err) != ReasonNoHeader {
			t.Errorf("a copy in the other's place: %v", err)
		}
	}
}

func TestTwoSlotsOpenWithEitherKey(t *testing.T) {
	d, other := newDisk(t), newDisk(t)
	second := &Slot{Current: d.header.Slots[0].Current}
	area, err := second.Seal(other.key, d.volumeKey)
	if err != nil {
		t.Fatal(err)
	}
	d.header.Slots[1] = second
	d.header.Sign([Slots]MACKey{d.mac, other.mac})
	for i, with := range []struct {
		*disk
		area []byte
	}{{d, d.area}, {other, area}} {
		h, slot, err := accept(d.header.Encode(Primary), Primary, with.mac)
		if err != nil || slot != i {
			t.Fatalf("key %d opens slot %d, %v", i, slot, err)
		}
		if volumeKey, err := h.Unlock(slot, with.area, with.key); err != nil || !bytes.Equal(volumeKey, d.volumeKey) {
			t.Errorf("key %d: the volume key is another, %v", i, err)
		}
	}
}

func TestUnlockRefusesOtherContent(t *testing.T) {
	d, other := newDisk(t), newDisk(t)
	flipped := bytes.Clone(d.area)
	flipped[SlotSize/2] ^= 1
	for name, test := range map[string]struct {
		slot      int
		area, key []byte
	}{
		"area of another disk":  {0, other.area, d.key},
		"one bit of the area":   {0, flipped, d.key},
		"another key":           {0, d.area, other.key},
		"a slot that is empty":  {1, d.area, d.key},
		"an area of other size": {0, d.area[1:], d.key},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := d.header.Unlock(test.slot, test.area, test.key); ReasonOf(err) != ReasonSlotContent {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A wrong key, a changed header and a header of another disk give the same answer, to the letter.
func TestAuthenticateIsNoOracle(t *testing.T) {
	d, other := newDisk(t), newDisk(t)
	_, wrongKey := d.header.Authenticate(other.mac)
	changed := *d.header
	changed.Sequence++
	_, changedHeader := changed.Authenticate(d.mac)
	if ReasonOf(wrongKey) != ReasonUnauthentic || wrongKey.Error() != changedHeader.Error() {
		t.Errorf("wrong key: %v; changed header: %v", wrongKey, changedHeader)
	}
}

func TestNewMACKeyWantsAKeyOfFullLength(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		if _, err := NewMACKey(make([]byte, size)); err == nil || err.Error() != "a disk's key has 32 bytes" {
			t.Errorf("a key of %d bytes: %v", size, err)
		}
	}
}

// reseal corrects the checksum, as an attacker would.
func reseal(data []byte) []byte {
	sum := checksum(data)
	copy(data[offsetChecksum:], sum[:])
	return data
}

// TestV1EveryFieldOfTheBinaryHeaderIsFixed mutates the binary header field by field.
func TestV1EveryFieldOfTheBinaryHeaderIsFixed(t *testing.T) {
	d := newDisk(t)
	for _, test := range []struct {
		name   string
		change func(data []byte)
		reason Reason
	}{
		{"magic", func(b []byte) { b[0] ^= 1 }, ReasonNoHeader},
		{"LUKS1", func(b []byte) { b[offsetVersion+1] = 1 }, ReasonVersion},
		{"size", func(b []byte) { binary.BigEndian.PutUint64(b[offsetSize:], 1<<62) }, ReasonLayout},
		{"sequence", func(b []byte) { b[offsetSequence+7]++ }, ReasonUnauthentic},
		{"label", func(b []byte) { b[offsetLabel]++ }, ReasonForeign},
		{"checksum's algorithm", func(b []byte) { copy(b[offsetAlgorithm:], "sha512") }, ReasonChecksum},
		{"salt", func(b []byte) { b[offsetSalt]++ }, ReasonUnauthentic},
		{"UUID of another disk", func(b []byte) { b[offsetUUID] = 'f' }, ReasonUnauthentic},
		{"UUID in upper case", func(b []byte) { b[offsetUUID+10] = 'A' }, ReasonUUID},
		{"no UUID", func(b []byte) { clear(b[offsetUUID:offsetSubsystem]) }, ReasonUUID},
		{"subsystem", func(b []byte) { copy(b[offsetSubsystem:], "x") }, ReasonLayout},
		{"place", func(b []byte) { b[offsetOffset+7] = 1 }, ReasonLayout},
		{"padding", func(b []byte) { b[offsetPadding] = 1 }, ReasonLayout},
		{"padding behind the checksum", func(b []byte) { b[offsetChecksum+32] = 1 }, ReasonLayout},
		{"padding before the metadata", func(b []byte) { b[binarySize-1] = 1 }, ReasonLayout},
		{"padding behind the metadata", func(b []byte) { b[HeaderSize-1] = 1 }, ReasonMetadata},
		{"something behind a text", func(b []byte) { b[offsetAlgorithm-1] = 1 }, ReasonForeign},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := d.header.Encode(Primary)
			sum := bytes.Clone(data[offsetChecksum+32 : endChecksum])
			test.change(data)
			tail := bytes.Clone(data[offsetChecksum+32 : endChecksum])
			reseal(data)
			if !bytes.Equal(sum, tail) {
				copy(data[offsetChecksum+32:], tail)
			}
			if _, _, err := accept(data, Primary, d.mac); ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
		})
	}
	torn := d.header.Encode(Primary)
	torn[binarySize+20] ^= 1
	if _, err := Parse(torn, Primary); ReasonOf(err) != ReasonChecksum {
		t.Errorf("a torn header: %v", err)
	}
	if _, err := Parse(torn[1:], Primary); ReasonOf(err) != ReasonLayout {
		t.Errorf("a header of another length: %v", err)
	}
}

// TestV1AuthenticIsTheWholeHeader changes what is free to differ between disks, each on its own: the bytes are those
// of a state disk, but not of this one.
func TestV1AuthenticIsTheWholeHeader(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(h, foreign *Header)
	}{
		{"a foreign volume key's digest", func(h, f *Header) { h.Digest = f.Digest }},
		{"a foreign key slot's salt", func(h, f *Header) { h.Slots[0].Salt = f.Slots[0].Salt }},
		{"a foreign MAC", func(h, f *Header) { h.Slots[0].MAC = f.Slots[0].MAC }},
		{"a foreign token and slot", func(h, f *Header) { h.Slots[0] = f.Slots[0] }},
		{"a key slot added", func(h, f *Header) { h.Slots[1] = f.Slots[0] }},
		{"a key slot moved", func(h, _ *Header) { h.Slots[0], h.Slots[1] = nil, h.Slots[0] }},
		{"another generation", func(h, f *Header) { h.Slots[0].Current = f.Slots[0].Current }},
		{"a later generation", func(h, _ *Header) { h.Slots[0].Next = h.Slots[0].Current.After() }},
		{"another salt", func(h, f *Header) { h.Salt = f.Salt }},
		{"another name", func(h, _ *Header) { h.UUID = strings.Replace(h.UUID, "0", "1", 1) }},
		{"another sequence", func(h, _ *Header) { h.Sequence-- }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, foreign := newDisk(t), newDisk(t)
			test.change(d.header, foreign.header)
			if _, _, err := accept(d.header.Encode(Primary), Primary, d.mac); ReasonOf(err) != ReasonUnauthentic {
				t.Errorf("got %v, want reason %s", err, ReasonUnauthentic)
			}
		})
	}
}

func BenchmarkAccept(b *testing.B) {
	d := newDisk(b)
	data := d.header.Encode(Primary)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := accept(data, Primary, d.mac); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnlock(b *testing.B) {
	d := newDisk(b)
	for b.Loop() {
		if _, err := d.header.Unlock(0, d.area, d.key); err != nil {
			b.Fatal(err)
		}
	}
}
