// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/measurements"
)

// ekCertificateIndex is where the certificate of the RSA 2048 endorsement key is
// (TCG EK Credential Profile 2.5, section 2.2.1.4).
const ekCertificateIndex = 0x01c00002

// quoteAttempts is how often registers may change between the quote and their
// reading before Issue gives up.
const quoteAttempts = 3

// IssuerOptions adjust an Issuer.
type IssuerOptions struct {
	// EventLog reads the firmware's log. It is called for each evidence.
	EventLog func() ([]byte, error)
	// Intermediates are certificates in DER between the endorsement key's and the
	// authority that verifiers know.
	Intermediates [][]byte
}

// Issuer implements attestation.Responder with a TPM. It does one command after the
// other, and keeps two transient objects loaded until Close. The zero value only fails.
type Issuer struct {
	options      IssuerOptions
	certificates [][]byte
	banks        []uint16 // to quote; they change with a reset of the TPM only

	mu     sync.Mutex
	tpm    transport.TPM
	ak, ek *loaded
	closed bool
}

// loaded is a key in the TPM.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public []byte // TPMT_PUBLIC
}

// NewIssuer makes the endorsement key (template L-1, RSA 2048) and the attestation key
// in the TPM: both follow from its endorsement seed, so they are the same each time.
// It does not take over t, and nobody else may use t before Close but through the
// kernel's resource manager.
func NewIssuer(t transport.TPM, o IssuerOptions) (*Issuer, error) {
	if attestation.IsNil(t) || o.EventLog == nil {
		return nil, errors.New("tpm: an issuer needs a TPM and its event log")
	}
	i := &Issuer{options: o, tpm: t}
	var err error
	if i.ek, err = i.createPrimary(tpm2.RSAEKTemplate); err != nil {
		return nil, fmt.Errorf("tpm: make the endorsement key: %w", err)
	}
	if i.ak, err = i.createPrimary(attestationTemplate()); err != nil {
		i.flush(i.ek)
		return nil, fmt.Errorf("tpm: make the attestation key: %w", err)
	}
	if i.banks, err = i.readBanks(); err != nil {
		i.flush(i.ek, i.ak)
		return nil, fmt.Errorf("tpm: read which banks there are: %w", err)
	}
	certificate, err := i.readCertificate()
	if err != nil {
		i.flush(i.ek, i.ak)
		return nil, fmt.Errorf("tpm: read the endorsement certificate: %w", err)
	}
	if certificate != nil {
		i.certificates = append([][]byte{certificate}, o.Intermediates...)
	}
	return i, nil
}

// Identity is that of the endorsement key, as verifiers' claims have it.
func (i *Issuer) Identity() (attestation.Identity, error) {
	if i.ek == nil {
		return attestation.Identity{}, errors.New("tpm: the issuer was not made by NewIssuer")
	}
	key, err := parseEndorsementKey(i.ek.public)
	if err != nil {
		return attestation.Identity{}, fmt.Errorf("tpm: the endorsement key: %w", err)
	}
	return identity(key)
}

// Close removes the keys from the TPM. The issuer cannot be used any more.
func (i *Issuer) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.usable() != nil {
		return nil
	}
	i.closed = true
	return i.flush(i.ek, i.ak)
}

// usable says why not. i.mu is held.
func (i *Issuer) usable() error {
	switch {
	case i.tpm == nil:
		return errors.New("the issuer was not made by NewIssuer")
	case i.closed:
		return errors.New("the issuer is closed")
	}
	return nil
}

func (i *Issuer) flush(keys ...*loaded) (err error) {
	for _, k := range keys {
		_, e := tpm2.FlushContext{FlushHandle: k.handle}.Execute(i.tpm)
		err = errors.Join(err, e)
	}
	return err
}

func (i *Issuer) createPrimary(template tpm2.TPMTPublic) (*loaded, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(i.tpm)
	if err != nil {
		return nil, err
	}
	return &loaded{r.ObjectHandle, r.Name, r.OutPublic.Bytes()}, nil
}

// readCertificate returns nil if the TPM holds no certificate.
func (i *Issuer) readCertificate() ([]byte, error) {
	index := tpm2.TPMHandle(ekCertificateIndex)
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(i.tpm)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if int(contents.DataSize) > maxCertificateSize {
		return nil, fmt.Errorf("%d bytes, at most %d", contents.DataSize, maxCertificateSize)
	}
	var out []byte
	for len(out) < int(contents.DataSize) {
		const chunk = 512 // every TPM's buffer has room for that
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(chunk, contents.DataSize-uint16(len(out))),
			Offset:     uint16(len(out)),
		}.Execute(i.tpm)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 {
			return nil, errors.New("the TPM returns nothing")
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// Technology implements attestation.Issuer.
func (i *Issuer) Technology() attestation.Technology { return Technology }

// Issue implements attestation.Issuer.
func (i *Issuer) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	i.mu.Lock()
	err := i.usable()
	i.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	log, err := i.options.EventLog()
	if err != nil {
		return nil, fmt.Errorf("tpm: read the event log: %w", err)
	}
	m := &api.TPM{
		Version:                 version,
		AttestationKey:          i.ak.public,
		EndorsementKey:          i.ek.public,
		EndorsementCertificates: i.certificates,
		EventLog:                log,
	}
	if err := i.quote(ctx, b, m); err != nil {
		return nil, fmt.Errorf("tpm: quote: %w", err)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("tpm: encode: %w", err)
	}
	return attestation.NewEvidence(Technology, payload), nil
}

func (i *Issuer) quote(ctx context.Context, b attestation.Binding, m *api.TPM) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.usable(); err != nil {
		return err
	}
	data := qualifyingData(b)
	for range quoteAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: i.ak.handle, Name: i.ak.name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: data[:]},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      selectAll(i.banks...),
		}.Execute(i.tpm)
		if err != nil {
			return err
		}
		m.Quote, m.Signature = r.Quoted.Bytes(), tpm2.Marshal(r.Signature)
		if m.Banks, err = i.read(); err != nil {
			return err
		}
		q, err := parseQuote(m.Quote)
		if err != nil {
			return err
		}
		if _, err = q.registers(m.Banks); err == nil {
			return nil
		}
	}
	return errors.New("the registers keep changing")
}

// readBanks returns those of ours that the TPM has.
func (i *Issuer) readBanks() ([]uint16, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(i.tpm)
	if err != nil {
		return nil, err
	}
	list, err := r.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	var out []uint16
	for _, alg := range []uint16{algSHA256, algSHA384} {
		if slices.ContainsFunc(list.PCRSelections, func(s tpm2.TPMSPCRSelection) bool {
			return uint16(s.Hash) == alg && bytes.HasPrefix(s.PCRSelect, allPCRs[:2])
		}) {
			out = append(out, alg)
		}
	}
	if len(out) == 0 || out[0] != algSHA256 {
		return nil, errors.New("the TPM has no SHA-256 bank")
	}
	return out, nil
}

func selectAll(banks ...uint16) (list tpm2.TPMLPCRSelection) {
	for _, alg := range banks {
		list.PCRSelections = append(list.PCRSelections, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgID(alg), PCRSelect: allPCRs})
	}
	return list
}

// read reads eight registers at a time, the most that one answer holds.
func (i *Issuer) read() ([]*api.Bank, error) {
	var out []*api.Bank
	for _, alg := range i.banks {
		b := &api.Bank{Algorithm: uint32(alg)}
		for _, half := range [][]byte{{0xff, 0, 0}, {0, 0xff, 0}} {
			r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
				PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(alg), PCRSelect: half}},
			}}.Execute(i.tpm)
			if err != nil {
				return nil, err
			}
			for _, d := range r.PCRValues.Digests {
				b.Values = append(b.Values, d.Buffer...)
			}
		}
		if len(b.Values) != measurements.PCRCount*bank(b.Algorithm).Size() {
			return nil, fmt.Errorf("the TPM returned %d bytes of registers", len(b.Values))
		}
		out = append(out, b)
	}
	return out, nil
}

// Respond implements attestation.Responder by activating a credential.
func (i *Issuer) Respond(_ context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	object, encrypted, err := parseChallenge(challenge)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.usable(); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	r, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: i.ak.handle, Name: i.ak.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: i.ek.handle, Name: i.ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, endorsementPolicy)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: object},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(i.tpm)
	if err != nil {
		return nil, fmt.Errorf("tpm: activate the credential: %w", err)
	}
	return response(r.CertInfo.Buffer, b), nil
}

// endorsementPolicy is PolicyA of the EK Credential Profile: whoever may use the
// endorsement hierarchy may use the key.
func endorsementPolicy(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(t)
	return err
}
