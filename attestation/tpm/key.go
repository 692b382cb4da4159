// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/constellation-os/constellation/attestation"
)

// attestationTemplate is the public area of every attestation key but for its
// point: a restricted signing key that never leaves its TPM and that the TPM itself
// made, ECDSA with SHA-256 on P-256.
func attestationTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true,
			Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// Prefixes of the public areas that are accepted: all but the unique part, which is
// at the end (Part 2, section 12.2.4).
var (
	attestationPrefix = prefixOf(attestationTemplate(), 2+2)
	rsaPrefix         = prefixOf(tpm2.RSAEKTemplate, 2+256)
	eccPrefix         = prefixOf(tpm2.ECCEKTemplate, 2+32+2+32)
)

// Offsets in a TPMT_PUBLIC.
const (
	attributesOffset = 4
	policyOffset     = 8
)

func prefixOf(template tpm2.TPMTPublic, unique int) []byte {
	b := tpm2.Marshal(template)
	return b[:len(b)-unique]
}

// parseAttestationKey accepts the template with a point on the curve.
func parseAttestationKey(public []byte) (*ecdsa.PublicKey, error) {
	if len(public) > maxPublicSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "attestation key of %d bytes, at most %d", len(public), maxPublicSize)
	}
	if !bytes.HasPrefix(public, attestationPrefix) {
		return nil, refuseKey(public)
	}
	key, err := parsePoint(public[len(attestationPrefix):])
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "attestation key: %w", err)
	}
	return key, nil
}

// refuseKey says in what a key differs from the template.
func refuseKey(public []byte) error {
	if len(public) < policyOffset {
		return attestation.Refuse(attestation.ReasonMalformed, "attestation key of %d bytes", len(public))
	}
	have := binary.BigEndian.Uint32(public[attributesOffset:])
	want := binary.BigEndian.Uint32(attestationPrefix[attributesOffset:])
	switch {
	case !bytes.Equal(public[:attributesOffset], attestationPrefix[:attributesOffset]):
		return attestation.Refuse(attestation.ReasonScheme, "the attestation key is not an ECC key with names by SHA-256")
	case have != want:
		return attestation.Refuse(attestation.ReasonKey, "the attestation key has attributes %#08x, want %#08x: restricted, signing, fixed to its TPM", have, want)
	}
	return attestation.Refuse(attestation.ReasonScheme, "the attestation key is not for ECDSA with SHA-256 on P-256")
}

// parsePoint reads a TPMS_ECC_POINT on P-256.
func parsePoint(b []byte) (*ecdsa.PublicKey, error) {
	r := &reader{rest: b}
	x, y := r.sized(), r.sized()
	if !r.done() || len(x) > 32 || len(y) > 32 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "not a point")
	}
	var point [65]byte
	point[0] = 4 // SEC 1, section 2.3.3: uncompressed
	copy(point[33-len(x):], x)
	copy(point[65-len(y):], y)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[:])
}

// parseEndorsementKey accepts the public areas of the TCG EK Credential Profile,
// templates L-1 (RSA 2048) and L-2 (ECC P-256).
func parseEndorsementKey(public []byte) (crypto.PublicKey, error) {
	if len(public) > maxPublicSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "endorsement key of %d bytes, at most %d", len(public), maxPublicSize)
	}
	switch {
	case bytes.HasPrefix(public, rsaPrefix):
		r := &reader{rest: public[len(rsaPrefix):]}
		n := r.sized()
		if !r.done() || len(n) != 256 || n[0]&0x80 == 0 || n[255]&1 == 0 {
			return nil, attestation.Refuse(attestation.ReasonMalformed, "endorsement key: not a modulus of 2048 bits")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, nil
	case bytes.HasPrefix(public, eccPrefix):
		key, err := parsePoint(public[len(eccPrefix):])
		if err != nil {
			return nil, attestation.Refuse(attestation.ReasonMalformed, "endorsement key: %w", err)
		}
		return key, nil
	}
	return nil, attestation.Refuse(attestation.ReasonKey, "the endorsement key is not of template L-1 or L-2")
}

// nameSize is the length of a name in bytes: the hash's identifier, and the hash.
const nameSize = 2 + sha256.Size

// name is an object's name by SHA-256 (Part 1, section 16).
func name(public []byte) []byte {
	h := sha256.Sum256(public)
	return append([]byte{algSHA256 >> 8, algSHA256 & 0xff}, h[:]...)
}

// qualifiedName is the name of a primary key of the endorsement hierarchy together
// with where it hangs. Keys of other hierarchies have their counters blurred.
func qualifiedName(public []byte) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, rhEndorsement))
	h.Write(name(public))
	return h.Sum([]byte{algSHA256 >> 8, algSHA256 & 0xff})
}

// Beginnings of SubjectPublicKeyInfo (RFC 3279, sections 2.3.1 and 2.3.5; RFC 5480) of
// the two kinds of endorsement keys: all but the modulus, and all but the point.
var (
	rsaInfo     = mustHex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100")
	rsaExponent = mustHex("0203010001")
	eccInfo     = mustHex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// identity is the SHA-256 of the SubjectPublicKeyInfo of a key that
// parseEndorsementKey returned.
func identity(key crypto.PublicKey) (attestation.Identity, error) {
	h := sha256.New()
	switch k := key.(type) {
	case *rsa.PublicKey:
		h.Write(rsaInfo)
		h.Write(k.N.FillBytes(make([]byte, 256)))
		h.Write(rsaExponent)
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			return attestation.Identity{}, err
		}
		h.Write(eccInfo)
		h.Write(point)
	default:
		return attestation.Identity{}, fmt.Errorf("key of type %T", key)
	}
	return attestation.Identity{Kind: attestation.EndorsementKey, Value: h.Sum(nil)}, nil
}
