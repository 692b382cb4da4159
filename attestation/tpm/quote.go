// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"math/big"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/measurements"
)

// quote is what a TPMS_ATTEST of type quote says (Part 2, section 10.12.12).
type quote struct {
	signer    []byte
	extraData []byte
	boot      attestation.Boot
	selection []selection
	digest    []byte
}

// selection is a TPMS_PCR_SELECTION.
type selection struct {
	hash uint16
	pcrs []byte
}

// allPCRs selects PCR 0 to 15 of the 24 that a PC has.
var allPCRs = []byte{0xff, 0xff, 0x00}

// checkSignature checks a TPMT_SIGNATURE over the quote. What was not signed by the
// key is not looked at any further.
func checkSignature(key *ecdsa.PublicKey, signed, signature []byte) error {
	if len(signed) > maxQuoteSize || len(signature) > maxSignatureSize {
		return attestation.Refuse(attestation.ReasonTooLarge, "quote of %d bytes, signature of %d", len(signed), len(signature))
	}
	r := &reader{rest: signature}
	scheme, hash := r.u16(), r.u16()
	if r.bad {
		return attestation.Refuse(attestation.ReasonMalformed, "the signature is cut short")
	}
	if scheme != algECDSA || hash != algSHA256 {
		return attestation.Refuse(attestation.ReasonScheme, "signed by scheme %#04x with hash %#04x, want ECDSA with SHA-256", scheme, hash)
	}
	x, y := r.sized(), r.sized()
	if !r.done() || len(x) > 32 || len(y) > 32 {
		return attestation.Refuse(attestation.ReasonMalformed, "not an ECDSA signature on P-256")
	}
	digest := sha256.Sum256(signed)
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)) {
		return attestation.Refuse(attestation.ReasonSignature, "the quote is not signed by the attestation key")
	}
	return nil
}

func parseQuote(b []byte) (*quote, error) {
	r := &reader{rest: b}
	magic, typ := r.u32(), r.u16()
	if r.bad {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "the quote is cut short")
	}
	if magic != generatedValue {
		return nil, attestation.Refuse(attestation.ReasonStructure, "magic %#08x: not made by a TPM", magic)
	}
	if typ != attestQuote {
		return nil, attestation.Refuse(attestation.ReasonStructure, "attestation of type %#04x, not a quote", typ)
	}
	q := &quote{signer: r.sized(), extraData: r.sized()}
	q.boot.Clock, q.boot.Resets, q.boot.Restarts = r.u64(), r.u32(), r.u32()
	safe := r.u8()
	q.boot.Safe = safe == 1
	r.u64() // firmware version: the vendor's to interpret
	count := r.u32()
	if count > 16 {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "%d selections", count)
	}
	for range count {
		q.selection = append(q.selection, selection{r.u16(), r.take(int(r.u8()))})
	}
	q.digest = r.sized()
	if !r.done() || safe > 1 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "not a quote's structure")
	}
	return q, nil
}

// check compares the quote with what it must be about, and returns the registers
// that it vouches for: those and no others.
func (q *quote) check(b attestation.Binding, attestationKey []byte, banks []*api.Bank) (measurements.Banks, error) {
	if want := qualifyingData(b); !bytes.Equal(q.extraData, want[:]) {
		return nil, attestation.Refuse(attestation.ReasonBinding, "the quote was made for another binding")
	}
	if !bytes.Equal(q.signer, qualifiedName(attestationKey)) {
		return nil, attestation.Refuse(attestation.ReasonKey, "the attestation key is not a primary key of the endorsement hierarchy")
	}
	if err := q.checkSelection(); err != nil {
		return nil, err
	}
	if q.boot.Restarts != 0 {
		return nil, attestation.Refuse(attestation.ReasonClock, "the TPM was resumed %d times: its registers can be of another boot", q.boot.Restarts)
	}
	return q.registers(banks)
}

// checkSelection wants PCR 0 to 15, of the SHA-256 bank first, and of the SHA-384
// bank after it if the TPM has that.
func (q *quote) checkSelection() error {
	if len(q.selection) == 0 || len(q.selection) > maxBanks {
		return attestation.Refuse(attestation.ReasonSelection, "%d banks are selected", len(q.selection))
	}
	for i, s := range q.selection {
		if want := []uint16{algSHA256, algSHA384}[i]; s.hash != want {
			return attestation.Refuse(attestation.ReasonSelection, "bank %d is of hash %#04x, want %#04x", i, s.hash, want)
		}
		if !bytes.Equal(s.pcrs, allPCRs) {
			return attestation.Refuse(attestation.ReasonSelection, "registers %x are selected, want %x: PCR 0 to 15", s.pcrs, allPCRs)
		}
	}
	return nil
}

// registers hashes the values that came with the quote as the TPM did.
func (q *quote) registers(banks []*api.Bank) (measurements.Banks, error) {
	if len(banks) > len(q.selection) {
		return nil, attestation.Refuse(attestation.ReasonUnselected, "%d banks of values, %d were quoted", len(banks), len(q.selection))
	}
	if len(banks) < len(q.selection) {
		return nil, attestation.Refuse(attestation.ReasonDigest, "%d banks of values, %d were quoted", len(banks), len(q.selection))
	}
	h := sha256.New() // the hash of the key's scheme
	out := make(measurements.Banks, len(banks))
	for i, b := range banks {
		if b.Algorithm != uint32(q.selection[i].hash) {
			return nil, attestation.Refuse(attestation.ReasonUnselected, "values of bank %#04x, quoted was %#04x", b.Algorithm, q.selection[i].hash)
		}
		alg := bank(b.Algorithm)
		size := measurements.PCRCount * alg.Size()
		if len(b.Values) > size {
			return nil, attestation.Refuse(attestation.ReasonUnselected, "%d bytes of values, %d were quoted", len(b.Values), size)
		}
		if len(b.Values) < size {
			return nil, attestation.Refuse(attestation.ReasonDigest, "%d bytes of values, %d were quoted", len(b.Values), size)
		}
		h.Write(b.Values)
		pcrs := make(measurements.PCRs, measurements.PCRCount)
		for n := range measurements.PCRCount {
			pcrs[n] = b.Values[n*alg.Size() : (n+1)*alg.Size() : (n+1)*alg.Size()]
		}
		out[alg] = pcrs
	}
	if !bytes.Equal(h.Sum(nil), q.digest) {
		return nil, attestation.Refuse(attestation.ReasonDigest, "the registers are not those that were quoted")
	}
	return out, nil
}
