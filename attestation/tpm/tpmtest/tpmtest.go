// SPDX-License-Identifier: Apache-2.0

// Package tpmtest is a TPM in this process, for tests that need thousands of machines:
// it makes genuine evidence of technology "tpm", with an endorsement key of template L-2
// (ECC P-256), as docs/attestation.md has it and independently of package tpm's code.
// Real TPMs, and those in software of package swtpmtest, prove more; this one is fast.
// No program that ships may link it.
package tpmtest

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
)

// Machine is an [attestation.Responder].
type Machine struct {
	observed         *measurements.Observed
	ak, ek           *ecdsa.PrivateKey
	akArea, ekArea   []byte // TPMT_PUBLIC
	akName, akSigner []byte
	identity         attestation.Identity
}

// New makes a machine that booted what was observed, with keys of its own.
func New(observed *measurements.Observed) (*Machine, error) {
	m := &Machine{observed: observed}
	var err error
	if m.ak, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if m.ek, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if m.akArea, err = area(attestationTemplate(), &m.ak.PublicKey); err != nil {
		return nil, err
	}
	if m.ekArea, err = area(tpm2.ECCEKTemplate, &m.ek.PublicKey); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(m.akArea)
	m.akName = append([]byte{0x00, 0x0b}, sum[:]...)
	sum = sha256.Sum256(append([]byte{0x40, 0x00, 0x00, 0x0b}, m.akName...)) // TPM_RH_ENDORSEMENT
	m.akSigner = append([]byte{0x00, 0x0b}, sum[:]...)
	info, err := x509.MarshalPKIXPublicKey(&m.ek.PublicKey)
	if err != nil {
		return nil, err
	}
	sum = sha256.Sum256(info)
	m.identity = attestation.Identity{Kind: attestation.EndorsementKey, Value: sum[:]}
	return m, nil
}

func attestationTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
	}
}

// area is a template with a key's point.
func area(template tpm2.TPMTPublic, key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return tpm2.Marshal(template), nil
}

// Identity is what a policy's inventory lists.
func (m *Machine) Identity() attestation.Identity { return m.identity }

// Technology implements [attestation.Issuer].
func (m *Machine) Technology() attestation.Technology { return policy.TPM }

// Issue implements [attestation.Issuer].
func (m *Machine) Issue(_ context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	evidence := &api.TPM{Version: 1, AttestationKey: m.akArea, EndorsementKey: m.ekArea, EventLog: m.observed.EventLog}
	registers := sha256.New()
	for i, alg := range measurements.Algorithms() {
		bank := &api.Bank{Algorithm: []uint32{0x000b, 0x000c}[i]}
		for pcr := range measurements.PCRCount {
			bank.Values = append(bank.Values, m.observed.PCRs[alg][pcr]...)
		}
		registers.Write(bank.Values)
		evidence.Banks = append(evidence.Banks, bank)
	}
	evidence.Quote = m.quote(b, registers.Sum(nil))
	digest := sha256.Sum256(evidence.Quote)
	r, s, err := ecdsa.Sign(rand.Reader, m.ak, digest[:])
	if err != nil {
		return nil, err
	}
	evidence.Signature = tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})
	payload, err := proto.Marshal(evidence)
	if err != nil {
		return nil, err
	}
	return attestation.NewEvidence(policy.TPM, payload), nil
}

// quote is a TPMS_ATTEST over PCR 0 to 15 of both banks (TPM 2.0 Library Part 2, section 10.12.12).
func (m *Machine) quote(b attestation.Binding, registers []byte) []byte {
	be := binary.BigEndian
	extra := sha256.Sum256(b[:])
	q := be.AppendUint16(be.AppendUint32(nil, 0xff544347), 0x8018)
	q = sized(sized(q, m.akSigner), extra[:])
	q = be.AppendUint64(q, 1234)                  // clock
	q = be.AppendUint32(be.AppendUint32(q, 1), 0) // resets, restarts
	q = be.AppendUint64(append(q, 1), 0x20260101) // safe, firmware's version
	q = be.AppendUint32(q, 2)                     // selections
	q = append(q, 0, 0x0b, 3, 0xff, 0xff, 0)      // SHA-256
	q = append(q, 0, 0x0c, 3, 0xff, 0xff, 0)      // SHA-384
	return sized(q, registers)
}

func sized(b, v []byte) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...) }

// Respond implements [attestation.Responder]: TPM2_ActivateCredential (Part 1, section 24).
func (m *Machine) Respond(_ context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	object, rest, err := take(challenge)
	if err != nil {
		return nil, err
	}
	encrypted, _, err := take(rest)
	if err != nil {
		return nil, err
	}
	seed, err := m.seed(encrypted)
	if err != nil {
		return nil, err
	}
	secret, err := m.open(seed, object)
	if err != nil {
		return nil, err
	}
	answer := hmac.New(sha256.New, secret)
	answer.Write([]byte("constellation tpm activation v1"))
	answer.Write(b[:])
	return answer.Sum(nil), nil
}

// take splits off a TPM2B.
func take(b []byte) (v, rest []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, errors.New("tpmtest: cut short")
	}
	n := int(binary.BigEndian.Uint16(b))
	return b[2 : 2+n], b[2+n:], nil
}

// seed shares a secret with whoever made the credential (Part 1, section C.6.4).
func (m *Machine) seed(encrypted []byte) ([]byte, error) {
	x, rest, err := take(encrypted)
	if err != nil {
		return nil, err
	}
	y, _, err := take(rest)
	if err != nil {
		return nil, err
	}
	if len(x) > 32 || len(y) > 32 {
		return nil, errors.New("tpmtest: not a point")
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(x):], x)
	copy(point[65-len(y):], y)
	theirs, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, err
	}
	public, err := theirs.ECDH()
	if err != nil {
		return nil, err
	}
	private, err := m.ek.ECDH()
	if err != nil {
		return nil, err
	}
	z, err := private.ECDH(public)
	if err != nil {
		return nil, err
	}
	own, err := m.ek.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	return tpm2.KDFe(crypto.SHA256, z, "IDENTITY", point[1:33], own[1:33], 256), nil
}

// open decrypts a TPMS_ID_OBJECT.
func (m *Machine) open(seed, object []byte) ([]byte, error) {
	mac, encrypted, err := take(object)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	h.Write(encrypted)
	h.Write(m.akName)
	if !hmac.Equal(mac, h.Sum(nil)) {
		return nil, errors.New("tpmtest: the credential is for another key")
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", m.akName, nil, 128))
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	//lint:ignore SA1019 TPM 2.0 Library Part 1, section 11.4.8, demands this mode
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, encrypted)
	secret, _, err := take(plain)
	if err != nil {
		return nil, fmt.Errorf("what was decrypted: %w", err)
	}
	return secret, nil
}
