// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"

	"github.com/constellation-os/constellation/measurements/tcg"
)

// PCRCount is how many PCRs are predicted and compared: 0 to 15, the static
// ones (TCG PC Client Platform TPM Profile, section 4.6).
const PCRCount = 16

// Algorithm names a PCR bank by its hash.
type Algorithm string

// The banks that predictions cover.
const (
	SHA256 Algorithm = "sha256"
	SHA384 Algorithm = "sha384"
)

// Algorithms lists the banks that predictions cover. SHA-256 must be present
// in a machine's TPM; SHA-384 is compared where it is.
func Algorithms() []Algorithm { return []Algorithm{SHA256, SHA384} }

// Size is the length of a digest in bytes, 0 for an unknown algorithm.
func (a Algorithm) Size() int {
	switch a {
	case SHA256:
		return sha256.Size
	case SHA384:
		return sha512.Size384
	}
	return 0
}

// New returns the algorithm's hash. It panics on an unknown algorithm; every
// decoder of this package refuses those.
func (a Algorithm) New() hash.Hash {
	switch a {
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	}
	panic("measurements: unknown algorithm " + strconv.Quote(string(a)))
}

// TCG is the algorithm's identifier in TPM structures.
func (a Algorithm) TCG() tcg.Algorithm {
	switch a {
	case SHA256:
		return tcg.AlgSHA256
	case SHA384:
		return tcg.AlgSHA384
	}
	return 0
}

// Digest is a hash value; in JSON it is lower-case hexadecimal.
type Digest []byte

// String is the lower-case hexadecimal form.
func (d Digest) String() string { return hex.EncodeToString(d) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Upper case is refused, so
// that a value has one spelling.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) > 2*sha512.Size {
		return fmt.Errorf("digest of %d characters is too long", len(text))
	}
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("digest contains %q, want lower-case hexadecimal", c)
		}
	}
	raw, err := hex.DecodeString(string(text))
	if err != nil {
		return err
	}
	*d = raw
	return nil
}

// Digests holds one digest per bank.
type Digests map[Algorithm]Digest

// Sum hashes the concatenation of data for every bank.
func Sum(data ...[]byte) Digests {
	out := make(Digests, 2)
	for _, a := range Algorithms() {
		h := a.New()
		for _, d := range data {
			h.Write(d)
		}
		out[a] = h.Sum(nil)
	}
	return out
}

// PCRs maps an index to its value.
type PCRs map[int]Digest

// Banks holds the PCR values of each bank.
type Banks map[Algorithm]PCRs

// Extend returns H(value || digest), TPM 2.0 Library Part 1, section 17.3.
func (a Algorithm) Extend(value, digest Digest) Digest {
	out := append(make(Digest, 0, a.Size()), value...)
	a.extend(out, digest)
	return out
}

// extend replaces value by H(value || digest), without allocating.
func (a Algorithm) extend(value Digest, digest []byte) {
	var buf [2 * sha512.Size384]byte
	both := append(append(buf[:0], value...), digest...)
	switch a {
	case SHA256:
		sum := sha256.Sum256(both)
		copy(value, sum[:])
	case SHA384:
		sum := sha512.Sum384(both)
		copy(value, sum[:])
	default:
		panic("measurements: unknown algorithm " + strconv.Quote(string(a)))
	}
}

// Zero is the value of an untouched PCR.
func (a Algorithm) Zero() Digest { return make(Digest, a.Size()) }

// check says whether every algorithm is known and every digest has its length.
func (d Digests) check() error {
	for a, v := range d {
		if a.Size() == 0 {
			return fmt.Errorf("unknown algorithm %q", a)
		}
		if len(v) != a.Size() {
			return fmt.Errorf("%s digest has %d bytes, want %d", a, len(v), a.Size())
		}
	}
	return nil
}

func (b Banks) check() error {
	for a, pcrs := range b {
		if a.Size() == 0 {
			return fmt.Errorf("unknown bank %q", a)
		}
		for i, v := range pcrs {
			if i < 0 || i >= PCRCount {
				return fmt.Errorf("%s bank: PCR %d is not one of 0 to %d", a, i, PCRCount-1)
			}
			if len(v) != a.Size() {
				return fmt.Errorf("%s bank: PCR %d has %d bytes, want %d", a, i, len(v), a.Size())
			}
		}
	}
	return nil
}
