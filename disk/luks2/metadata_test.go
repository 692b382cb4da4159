// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"strings"
	"testing"
)

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
