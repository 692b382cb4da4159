// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
)

// Sizes of a nonce in bytes.
const (
	MinNonceSize = 32
	MaxNonceSize = 64
)

// nonceLabel separates bindings of nonces from all others: it is no prefix of another
// label, and none of another's is one of it.
const nonceLabel = "constellation evidence nonce v1"

// NonceBinding is the binding of evidence that is asked for without a connection: by
// files. It is SHA-512 over a label and the nonce, 32 to 64 fresh random bytes of the
// verifier. Evidence over it never passes on a connection, nor a connection's here.
//
// It binds to the nonce alone: who carried the evidence is not known, so it must
// not let anybody in.
func NonceBinding(nonce []byte) (Binding, error) {
	if len(nonce) < MinNonceSize || len(nonce) > MaxNonceSize {
		return Binding{}, Refuse(ReasonBinding, "a nonce of %d bytes, want %d to %d", len(nonce), MinNonceSize, MaxNonceSize)
	}
	h := sha512.New()
	h.Write([]byte(nonceLabel))
	h.Write(nonce)
	return Binding(h.Sum(nil)), nil
}

// ParseNonce reads a nonce as people write it: hexadecimal if it has the digits of
// that alone, else base64 (RFC 4648, section 4).
func ParseNonce(text string) ([]byte, error) {
	if len(text) > 2*MaxNonceSize {
		return nil, Refuse(ReasonTooLarge, "a nonce of %d characters, at most %d", len(text), 2*MaxNonceSize)
	}
	nonce, err := hex.DecodeString(text)
	if err != nil {
		nonce, err = base64.StdEncoding.Strict().DecodeString(text)
	}
	if err != nil {
		return nil, Refuse(ReasonMalformed, "the nonce is neither hexadecimal nor base64")
	}
	if len(nonce) < MinNonceSize || len(nonce) > MaxNonceSize {
		return nil, Refuse(ReasonBinding, "a nonce of %d bytes, want %d to %d", len(nonce), MinNonceSize, MaxNonceSize)
	}
	return nonce, nil
}
