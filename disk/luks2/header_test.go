// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
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

// rewrite replaces a part of the metadata.
func rewrite(t testing.TB, data []byte, old, with string) []byte {
	t.Helper()
	document := text(data[binarySize:])
	if !strings.Contains(document, old) {
		t.Fatalf("the metadata has no %s: %s", old, document)
	}
	changed := strings.Replace(document, old, with, 1)
	out := make([]byte, HeaderSize)
	copy(out, data[:binarySize])
	copy(out[binarySize:], changed)
	return reseal(out)
}

// TestV1EveryFieldOfTheMetadataIsFixed mutates the metadata field by field.
func TestV1EveryFieldOfTheMetadataIsFixed(t *testing.T) {
	d := newDisk(t)
	good := d.header.Encode(Primary)
	for _, test := range []struct {
		name, old, with string
		reason          Reason
	}{
		{"null cipher of the data", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`, ReasonCipher},
		{"another cipher of the data", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-cbc-plain"`, ReasonCipher},
		{"no authentication of the data", `,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`, ``, ReasonIntegrity},
		{"weak authentication of the data", `{"type":"hmac(sha256)"`, `{"type":"crc32"`, ReasonIntegrity},
		{"journal integrity", `"journal_integrity":"none"`, `"journal_integrity":"crc32"`, ReasonIntegrity},
		{"journal encryption", `"journal_encryption":"none"`, `"journal_encryption":"xor"`, ReasonIntegrity},
		{"segment of another type", `"segments":{"0":{"type":"crypt"`, `"segments":{"0":{"type":"linear"`, ReasonSegments},
		{"segment elsewhere", `"offset":"16777216"`, `"offset":"16781312"`, ReasonSegments},
		{"segment of fixed size", `"size":"dynamic"`, `"size":"4096"`, ReasonSegments},
		{"segment with a tweak", `"iv_tweak":"0"`, `"iv_tweak":"8"`, ReasonSegments},
		{"segment of other sectors", `"sector_size":4096`, `"sector_size":512`, ReasonSegments},
		{"segment by another number", `"segments":{"0":{`, `"segments":{"1":{`, ReasonSegments},
		{"a second segment", `"segments":{"0":{`, `"segments":{"1":{"type":"linear"},"0":{`, ReasonSegments},
		{"segment flags", `"sector_size":4096,`, `"sector_size":4096,"flags":["backup-final"],`, ReasonMetadata},
		{"key of the data is shorter", `"type":"luks2","key_size":96`, `"type":"luks2","key_size":32`, ReasonKeySize},
		{"key slot of another type", `{"type":"luks2"`, `{"type":"reencrypt"`, ReasonKeyslots},
		{"key slot by another number", `"keyslots":{"0":{`, `"keyslots":{"7":{`, ReasonKeyslots},
		{"key slot with null cipher", `"size":"385024","encryption":"aes-xts-plain64"`, `"size":"385024","encryption":"cipher_null-ecb"`, ReasonKeyslots},
		{"key slot elsewhere", `"offset":"32768"`, `"offset":"36864"`, ReasonKeyslots},
		{"key slot over the header", `"offset":"32768"`, `"offset":"0"`, ReasonKeyslots},
		{"key slot of other size", `"size":"385024"`, `"size":"4096"`, ReasonKeyslots},
		{"key slot's key size", `"aes-xts-plain64","key_size":64`, `"aes-xts-plain64","key_size":32`, ReasonKeyslots},
		{"key slot's area type", `"area":{"type":"raw"`, `"area":{"type":"datashift"`, ReasonKeyslots},
		{"key slot's stripes", `"stripes":4000`, `"stripes":1`, ReasonKeyslots},
		{"key slot's splitter", `"af":{"type":"luks1"`, `"af":{"type":"none"`, ReasonKeyslots},
		{"key slot's splitter hash", `"stripes":4000,"hash":"sha256"`, `"stripes":4000,"hash":"sha1"`, ReasonKeyslots},
		{"key slot with a priority", `"keyslots":{"0":{"type":"luks2",`, `"keyslots":{"0":{"type":"luks2","priority":2,`, ReasonMetadata},
		{"key derivation with much memory", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2id"`, ReasonKDF},
		{"key derivation without end", `"hash":"sha256","iterations":1000,"salt"`, `"hash":"sha256","iterations":2147483647,"salt"`, ReasonKDF},
		{"key derivation's hash", `"kdf":{"type":"pbkdf2","hash":"sha256"`, `"kdf":{"type":"pbkdf2","hash":"md5"`, ReasonKDF},
		{"digest of another type", `"digests":{"0":{"type":"pbkdf2"`, `"digests":{"0":{"type":"none"`, ReasonDigests},
		{"digest's hash", `"segments":["0"],"hash":"sha256"`, `"segments":["0"],"hash":"sha1"`, ReasonDigests},
		{"digest's rounds", `"segments":["0"],"hash":"sha256","iterations":1000`, `"segments":["0"],"hash":"sha256","iterations":1`, ReasonDigests},
		{"digest for no segment", `"segments":["0"]`, `"segments":[]`, ReasonDigests},
		{"digest for no key slot", `"keyslots":["0"],"segments"`, `"keyslots":[],"segments"`, ReasonDigests},
		{"a second digest", `"digests":{"0":{`, `"digests":{"1":{},"0":{`, ReasonDigests},
		{"token of another type", `"type":"constellation-state-disk"`, `"type":"systemd-tpm2"`, ReasonTokens},
		{"token of another version", `"version":1`, `"version":2`, ReasonTokens},
		{"token for no key slot", `"keyslots":["0"],"version"`, `"keyslots":[],"version"`, ReasonTokens},
		{"token by another number", `"tokens":{"0":{`, `"tokens":{"3":{`, ReasonTokens},
		{"a second token", `"tokens":{"0":{`, `"tokens":{"5":{},"0":{`, ReasonTokens},
		{"generation that is none", `"id":""`, `"id":"zz"`, ReasonTokens},
		{"re-encryption requirement", `"keyslots_size":"16744448"`, `"keyslots_size":"16744448","requirements":{"mandatory":["online-reencrypt-v2"]}`, ReasonMetadata},
		{"flags for activation", `"keyslots_size":"16744448"`, `"keyslots_size":"16744448","flags":["allow-discards"]`, ReasonMetadata},
		{"size of the metadata", `"json_size":"12288"`, `"json_size":"65536"`, ReasonLayout},
		{"size of the slots", `"keyslots_size":"16744448"`, `"keyslots_size":"0"`, ReasonLayout},
		{"a blank", `"tokens":`, ` "tokens":`, ReasonMetadata},
		{"a field twice", `"sector_size":4096`, `"sector_size":512,"sector_size":4096`, ReasonMetadata},
		{"a field spelled otherwise", `"sector_size":4096`, `"Sector_size":4096`, ReasonMetadata},
		{"a number spelled otherwise", `"sector_size":4096`, `"sector_size":4.096e3`, ReasonMetadata},
		{"a letter escaped", `"type":"crypt"`, `"type":"\u0063rypt"`, ReasonMetadata},
		{"an unknown field", `{"keyslots":`, `{"extra":1,"keyslots":`, ReasonMetadata},
		{"another order", `"config":{"json_size":"12288","keyslots_size":"16744448"}`, `"config":{"keyslots_size":"16744448","json_size":"12288"}`, ReasonMetadata},
		{"text after the metadata", `"16744448"}}`, `"16744448"}}{}`, ReasonMetadata},
		{"no JSON", `{"keyslots"`, `["keyslots"`, ReasonMetadata},
		{"a number too large", `"sector_size":4096`, `"sector_size":1e99`, ReasonMetadata},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := accept(rewrite(t, good, test.old, test.with), Primary, d.mac); ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
		})
	}
}

// TestV1WellWrittenMetadataIsRefused changes what cannot be changed by replacing a word. The metadata is written as we
// write it, so that nothing but the meaning is wrong.
func TestV1WellWrittenMetadataIsRefused(t *testing.T) {
	d := newDisk(t)
	for _, test := range []struct {
		name   string
		change func(m *metadata)
		reason Reason
	}{
		{"our token removed", func(m *metadata) { delete(m.Tokens, "0") }, ReasonTokens},
		{"our token without its MAC", func(m *metadata) { setToken(m, func(t *token) { t.MAC = nil }) }, ReasonTokens},
		{"our token with a part of its MAC", func(m *metadata) { setToken(m, func(t *token) { t.MAC = t.MAC[:16] }) }, ReasonTokens},
		{"our token for another key slot", func(m *metadata) { setToken(m, func(t *token) { t.Keyslots = []string{"1"} }) }, ReasonTokens},
		{"a key slot added, without a token", func(m *metadata) { m.Keyslots["1"] = (&Slot{}).keyslot(1) }, ReasonDigests},
		{"a key slot added, without a token, for the digest", func(m *metadata) {
			m.Keyslots["1"] = (&Slot{}).keyslot(1)
			setDigest(m, func(d *digest) { d.Keyslots = []string{"0", "1"} })
		}, ReasonTokens},
		{"no key slot", func(m *metadata) { delete(m.Keyslots, "0") }, ReasonKeyslots},
		{"three key slots", func(m *metadata) { m.Keyslots["1"], m.Keyslots["2"] = m.Keyslots["0"], m.Keyslots["0"] }, ReasonKeyslots},
		{"no segment", func(m *metadata) { delete(m.Segments, "0") }, ReasonSegments},
		{"swapped segments", func(m *metadata) {
			m.Segments["1"] = m.Segments["0"]
			m.Segments["0"] = segment{Type: "linear", Offset: "16777216", Size: "4096"}
		}, ReasonSegments},
		{"no digest", func(m *metadata) { delete(m.Digests, "0") }, ReasonDigests},
		{"digest's salt is short", func(m *metadata) { setDigest(m, func(d *digest) { d.Salt = d.Salt[1:] }) }, ReasonDigests},
		{"digest is short", func(m *metadata) { setDigest(m, func(d *digest) { d.Digest = d.Digest[1:] }) }, ReasonDigests},
		{"key derivation's salt is short", func(m *metadata) {
			k := m.Keyslots["0"]
			k.KDF.Salt = k.KDF.Salt[1:]
			m.Keyslots["0"] = k
		}, ReasonKDF},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m metadata
			if err := json.Unmarshal(d.header.document(), &m); err != nil {
				t.Fatal(err)
			}
			test.change(&m)
			document, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			data := d.header.Encode(Primary)
			setDocument(data, document)
			if _, _, err := accept(reseal(data), Primary, d.mac); ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
		})
	}
}

func setToken(m *metadata, change func(*token)) {
	value := m.Tokens["0"]
	change(&value)
	m.Tokens["0"] = value
}

func setDigest(m *metadata, change func(*digest)) {
	value := m.Digests["0"]
	change(&value)
	m.Digests["0"] = value
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
