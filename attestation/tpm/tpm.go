// SPDX-License-Identifier: Apache-2.0

// Package tpm makes and judges evidence of technology "tpm": a quote over PCR 0 to
// 15 by a restricted ECDSA P-256 key, the firmware's event log, and the proof that
// the key lives in the TPM of an endorsement key which the policy trusts.
//
// An attestation key has no certificate. That it is in the same TPM as the
// endorsement key is shown by credential activation (TPM 2.0 Library Part 1,
// section 24): the verifier encrypts a secret so that only that endorsement key's TPM
// can decrypt it, and only while it holds a key with the attestation key's name.
// The name covers the key's attributes, so it also proves that the key is
// restricted: a restricted key signs nothing that looks like a quote and is none.
//
// # Trust
//
// Trusted are the policy's authorities and inventory, and that a TPM which they
// stand for keeps the TPM 2.0 specification. Certificates, public keys, registers
// and log in evidence are claims until a chain from there has reached them. Of the
// log only digests count, and only where they replay to the quoted registers.
//
// # Not guaranteed
//
// Whoever runs a TPM in software can read its keys: on plain QEMU the host can.
// Revocation of endorsement certificates is not looked up: to shut a device out, use an
// inventory without authorities. A discrete TPM can be reset by whoever holds its
// wires. The properties of a claim say what was not proven.
package tpm

import (
	"crypto/sha256"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
)

// Technology is the name of this package's evidence.
const Technology = policy.TPM

// version of the payload and of the challenge.
const version = 1

// Constants of the TPM 2.0 Library specification, Part 2.
const (
	algRSA    = 0x0001 // section 6.3
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algECDSA  = 0x0018
	algECC    = 0x0023

	generatedValue = 0xff544347 // TPM_GENERATED_VALUE, section 6.2
	attestQuote    = 0x8018     // TPM_ST_ATTEST_QUOTE, section 6.9
	rhEndorsement  = 0x4000000b // TPM_RH_ENDORSEMENT, section 7.4
)

// Limits of what is inside a payload, in bytes and elements. The payload itself
// is limited by attestation.MaxEvidenceSize.
const (
	maxPublicSize      = 1024
	maxQuoteSize       = 1024
	maxSignatureSize   = 256
	maxCertificateSize = 8 << 10
	maxCertificates    = 4
	maxBanks           = 2
)

// qualifyingData is what the quote carries of the binding: its SHA-256, because a
// TPM without large hashes has no room for 64 bytes (Part 2, section 10.4.3).
func qualifyingData(b attestation.Binding) [sha256.Size]byte { return sha256.Sum256(b[:]) }

// bank says which of our banks a TPM_ALG_ID is, empty for another.
func bank(alg uint32) measurements.Algorithm {
	switch alg {
	case algSHA256:
		return measurements.SHA256
	case algSHA384:
		return measurements.SHA384
	}
	return ""
}
