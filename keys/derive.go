// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"crypto/hkdf"
	"crypto/sha256"
	"strings"
)

// Sizes in bytes.
const (
	MasterSecretSize = 32
	SaltSize         = 32
	// MinLength and MaxLength are those of a data key.
	MinLength = 16
	MaxLength = 64
	// MaxIDLength is that of an id.
	MaxIDLength = 128
	// MeasurementSize is the length of the measurement secret.
	MeasurementSize = 32
)

// MeasurementID is the id of the measurement secret.
const MeasurementID = "cluster"

// labelPrefix names this hierarchy and its version. Another derivation would
// have another number.
const labelPrefix = "constellation/v1/"

const idCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"

// CheckID says whether id can be the id of a key: 1 to 128 characters of A-Z,
// a-z, 0-9, dash, underscore, dot and colon. Its errors have [ClassInvalid].
func CheckID(id string) error {
	if len(id) == 0 || len(id) > MaxIDLength {
		return Errorf(ClassInvalid, "an id has 1 to %d characters, not %d", MaxIDLength, len(id))
	}
	if strings.Trim(id, idCharacters) != "" || strings.ContainsFunc(id, notInID) {
		return Errorf(ClassInvalid, "an id has letters, digits and -_.: only")
	}
	return nil
}

func notInID(r rune) bool { return !strings.ContainsRune(idCharacters, r) }

// CheckLength says whether a data key can have n bytes. Its errors have [ClassInvalid].
func CheckLength(n int) error {
	if n < MinLength || n > MaxLength {
		return Errorf(ClassInvalid, "a data key has %d to %d bytes, not %d", MinLength, MaxLength, n)
	}
	return nil
}

// Check is what a request for a data key must fulfil, whoever makes the key.
// Its errors have [ClassInvalid].
func Check(purpose Purpose, id string, length int) error {
	if _, err := ParsePurpose(string(purpose)); err != nil {
		return err
	}
	if err := CheckID(id); err != nil {
		return err
	}
	if err := CheckLength(length); err != nil {
		return err
	}
	if purpose == PurposeMeasurement && (id != MeasurementID || length != MeasurementSize) {
		return Errorf(ClassInvalid, "the only key for %s is %s, of %d bytes", purpose, MeasurementID, MeasurementSize)
	}
	return nil
}

// Label is what separates the keys of the hierarchy. An id holds no slash, so
// two different keys have different labels.
func Label(purpose Purpose, id string) string { return labelPrefix + string(purpose) + "/" + id }

// Expand derives a data key from a secret and a salt; see the package comment.
// The request must be one that [Check] passes.
func Expand(secret Secret, salt []byte, purpose Purpose, id string, length int) (Secret, error) {
	if err := Check(purpose, id, length); err != nil {
		return Secret{}, err
	}
	return expand(secret, salt, Label(purpose, id), length)
}

func expand(secret Secret, salt []byte, label string, length int) (out Secret, err error) {
	secret.Use(func(b []byte) {
		var key []byte
		if len(b) < MasterSecretSize {
			err = Errorf(ClassInternal, "nothing can be derived from a secret that was wiped")
		} else if key, err = hkdf.Key(sha256.New, b, salt, label, length); err == nil {
			out = NewSecret(key)
		}
	})
	return out, err
}
