// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
)

// redacted is what a secret prints as.
const redacted = "[secret]"

// Secret holds bytes that must not be printed. The zero value holds none.
//
// Copies of a Secret share their bytes; one Wipe is for all. Wipe and use of the
// same secret must not overlap.
type Secret struct {
	// Behind two pointers, for fmt prints what a slice holds even in unexported
	// fields of other structures, but of a nested pointer only the address.
	p *buffer
}

type buffer struct{ bytes *[]byte }

// NewSecret takes b over: the caller neither keeps nor changes it. The bytes are
// overwritten by Wipe, or when the secret has become unreachable.
func NewSecret(b []byte) Secret {
	s := Secret{&buffer{&b}}
	runtime.AddCleanup(s.p, func(b *[]byte) { clear(*b) }, &b)
	return s
}

// RandomSecret makes a secret of n random bytes.
func RandomSecret(n int) Secret {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return NewSecret(b)
}

// Use calls f with the bytes, which f must neither keep nor change. They cannot
// be wiped behind its back by the garbage collector, as they could be if the
// bytes outlived the secret.
func (s Secret) Use(f func(b []byte)) {
	if s.p == nil {
		f(nil)
		return
	}
	f(*s.p.bytes)
	runtime.KeepAlive(s.p)
}

// Copy returns the bytes in a slice that is the caller's to wipe.
func (s Secret) Copy() (b []byte) {
	s.Use(func(secret []byte) { b = append(make([]byte, 0, len(secret)), secret...) })
	return b
}

// Len is the number of bytes.
func (s Secret) Len() (n int) {
	s.Use(func(b []byte) { n = len(b) })
	return n
}

// Equal compares in a time that depends on the lengths only.
func (s Secret) Equal(o Secret) (equal bool) {
	s.Use(func(a []byte) {
		o.Use(func(b []byte) { equal = subtle.ConstantTimeCompare(a, b) == 1 })
	})
	return equal
}

// Wipe overwrites the bytes. The secret, and every copy of it, then holds none.
func (s Secret) Wipe() {
	if s.p == nil {
		return
	}
	clear(*s.p.bytes)
	*s.p.bytes = nil
}

// String implements fmt.Stringer without the secret.
func (Secret) String() string { return redacted }

// Format implements fmt.Formatter without the secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer without the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: secrets do not go into JSON or any other text by accident.
func (Secret) MarshalText() ([]byte, error) { return nil, errNotEncoded }

// MarshalBinary fails like MarshalText.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errNotEncoded }

var errNotEncoded = errors.New("keys: a secret is not encoded")
