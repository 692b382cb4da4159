// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package evidence_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Attributes of keys: that of attestation keys, and of two that prove nothing.
const (
	restricted   = "00050472"
	unrestricted = "00040472"
	imported     = "00050452"
)

// forgedWith changes a quote, and signs it by somebody's own key, which has the form
// of an attestation key, and its name in the quote, but is in no TPM. Offsets of change
// are those of a TPMS_ATTEST and a TPMT_PUBLIC.
func forgedWith(change func(*payload)) func(one, two *payload) error {
	return forgedBy(restricted, change)
}

func forgedBy(attributes string, change func(*payload)) func(one, two *payload) error {
	return func(p, _ *payload) error { return forge(p, attributes, change) }
}

func forge(p *payload, attributes string, change func(*payload)) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return err
	}
	template, err := hex.DecodeString("0023000b" + attributes + "000000100018000b00030010")
	if err != nil {
		return err
	}
	sized := func(out, b []byte) []byte { return append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...) }
	p.AttestationKey = sized(sized(template, point[1:33]), point[33:])
	name := sha256.Sum256(p.AttestationKey)
	qualified := sha256.Sum256(append([]byte{0x40, 0, 0, 0x0b, 0, 0x0b}, name[:]...))
	copy(p.Quote[10:], qualified[:])
	change(p)
	digest := sha256.Sum256(p.Quote)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return err
	}
	p.Signature = sized(sized([]byte{0, 0x18, 0, 0x0b}, r.FillBytes(make([]byte, 32))), s.FillBytes(make([]byte, 32)))
	return nil
}
