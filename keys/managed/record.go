// SPDX-License-Identifier: Apache-2.0

package managed

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// RecordFormat names the format of stored records.
const RecordFormat = "constellation-wrapped-key/v1"

// MaxRecordSize is that of a stored record in bytes.
const MaxRecordSize = 16 << 10

// seedSize is that of the random seed which a data key comes from.
const seedSize = keys.MasterSecretSize

// Record is a wrapped key as it is stored, in JSON. It is not secret. All but
// Wrapped is for people and for finding the KEK: what a record is for, is known
// from who asked, and proven by what is wrapped.
type Record struct {
	Format  string       `json:"format"`
	Purpose keys.Purpose `json:"purpose"`
	ID      string       `json:"id"`
	Version keys.Version `json:"version"`
	// KEK is the version of the key encryption key.
	KEK     keys.Version `json:"kek"`
	Wrapped []byte       `json:"wrapped"`
}

// ParseRecord reads a record from a store. Its errors have [keys.ClassCorrupted].
func ParseRecord(data []byte) (*Record, error) {
	if len(data) > MaxRecordSize {
		return nil, keys.Errorf(keys.ClassCorrupted, "a record of more than %d bytes", MaxRecordSize)
	}
	var r Record
	if err := strictjson.Decode(data, &r); err != nil {
		return nil, keys.Errorf(keys.ClassCorrupted, "not a record: %w", err)
	}
	if r.Format != RecordFormat {
		return nil, keys.Errorf(keys.ClassCorrupted, "not a record of format %s", RecordFormat)
	}
	if r.KEK == 0 || len(r.Wrapped) == 0 || len(r.Wrapped) > MaxWrapped {
		return nil, keys.Errorf(keys.ClassCorrupted, "a record without a key encryption key or with a wrapped key of %d bytes", len(r.Wrapped))
	}
	return &r, nil
}

// slot is the place of one data key.
type slot struct {
	cluster string // the salt's digest: two clusters may share a KMS and a store
	purpose keys.Purpose
	id      string
	version keys.Version
}

func newSlot(salt []byte, purpose keys.Purpose, id string, version keys.Version) slot {
	digest := sha256.Sum256(salt)
	return slot{hex.EncodeToString(digest[:16]), purpose, id, version}
}

// context is what the wrapped key is bound to.
func (s slot) context() []byte {
	return fmt.Appendf(nil, "constellation/v1/wrapped-key/%s/%s/%s/%d", s.cluster, s.purpose, s.id, s.version)
}

// name is what the record is stored under: 64 characters of a-f and 0-9, which
// every store takes and which tell nothing.
func (s slot) name() string {
	digest := sha256.Sum256(s.context())
	return hex.EncodeToString(digest[:])
}

func (s slot) String() string { return fmt.Sprintf("%s/%s version %d", s.purpose, s.id, s.version) }

// payload is what is wrapped: a digest of what the seed is for, then the seed.
func (s slot) payload(seed []byte) []byte {
	digest := sha256.Sum256(s.context())
	return append(append(make([]byte, 0, len(digest)+len(seed)), digest[:]...), seed...)
}

// open takes a payload apart.
func (s slot) open(payload []byte) (seed []byte, err error) {
	digest := sha256.Sum256(s.context())
	if len(payload) != len(digest)+seedSize {
		return nil, keys.Errorf(keys.ClassCorrupted, "the KMS unwrapped %d bytes, not %d", len(payload), len(digest)+seedSize)
	}
	if subtle.ConstantTimeCompare(payload[:len(digest)], digest[:]) != 1 {
		return nil, keys.Errorf(keys.ClassWrongKey, "the stored key is not the one for %v", s)
	}
	return payload[len(digest):], nil
}

func (r *Record) marshal() ([]byte, error) { return json.Marshal(r) }
