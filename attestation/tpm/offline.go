// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// maxPendingSize is the most bytes that a Pending is encoded in.
const maxPendingSize = 4 << 10

// Pending is what a verifier keeps of a challenge that travels by file, until the
// answer is here. It holds the credential's secret: whoever reads it can give the
// answer without the TPM. It prints and formats as what it is for, without the secret.
type Pending struct {
	endorsementKey measurements.Digest // identity
	attestationKey measurements.Digest // name
	binding        measurements.Digest
	secret         []byte
}

// pendingFile is a Pending as JSON.
type pendingFile struct {
	Version        int                 `json:"version"`
	EndorsementKey measurements.Digest `json:"endorsement_key"`
	AttestationKey measurements.Digest `json:"attestation_key"`
	Binding        measurements.Digest `json:"binding"`
	Secret         measurements.Digest `json:"secret"`
}

// NewChallenge makes a challenge for the prover of evidence that cannot be reached at
// once. It judges nothing: Verifier.VerifyAnswered does, with the answer.
func NewChallenge(e *attestation.Evidence, b attestation.Binding) (challenge []byte, p *Pending, err error) {
	m, err := parsePayload(e)
	if err != nil {
		return nil, nil, err
	}
	if _, err := parseAttestationKey(m.AttestationKey); err != nil {
		return nil, nil, err
	}
	p = &Pending{attestationKey: name(m.AttestationKey), binding: b[:], secret: make([]byte, secretSize)}
	if p.endorsementKey, err = endorsementIdentity(m.EndorsementKey); err != nil {
		return nil, nil, err
	}
	rand.Read(p.secret)
	if challenge, err = makeChallenge(m.EndorsementKey, m.AttestationKey, p.secret); err != nil {
		return nil, nil, err
	}
	return challenge, p, nil
}

// VerifyAnswered is Verify for evidence whose challenge was answered by file. The
// pending challenge must have been made for the keys in this evidence and for this
// binding, or the answer proves nothing about them and is refused with ReasonChallenge.
func (v *Verifier) VerifyAnswered(e *attestation.Evidence, b attestation.Binding, p *Pending, answer []byte) (*attestation.Claims, error) {
	return v.verify(e, b, func(endorsementKey, attestationKey []byte) error {
		return p.check(endorsementKey, attestationKey, b, answer)
	})
}

func (p *Pending) check(endorsementKey, attestationKey []byte, b attestation.Binding, answer []byte) error {
	if p == nil {
		return errNotChallenged
	}
	id, err := endorsementIdentity(endorsementKey)
	if err != nil {
		return err
	}
	if !bytes.Equal(p.endorsementKey, id) || !bytes.Equal(p.attestationKey, name(attestationKey)) {
		return attestation.Refuse(attestation.ReasonChallenge, "the challenge was made for other keys than those of the evidence")
	}
	if !bytes.Equal(p.binding, b[:]) {
		return attestation.Refuse(attestation.ReasonChallenge, "the challenge was made for another nonce")
	}
	if !hmac.Equal(answer, response(p.secret, b)) {
		return attestation.Refuse(attestation.ReasonChallenge, "the attestation key is not in the TPM of the endorsement key")
	}
	return nil
}

func endorsementIdentity(public []byte) (measurements.Digest, error) {
	key, err := parseEndorsementKey(public)
	if err != nil {
		return nil, err
	}
	id, err := identity(key)
	return id.Value, err
}

// String names what the challenge is for.
func (p *Pending) String() string {
	return "challenge for endorsement key " + p.endorsementKey.String()
}

// GoString is String, for the verb %#v.
func (p *Pending) GoString() string { return p.String() }

// Marshal encodes all of it, with the secret: for a file that its owner alone can read.
func (p *Pending) Marshal() ([]byte, error) {
	data, err := json.MarshalIndent(pendingFile{version, p.endorsementKey, p.attestationKey, p.binding, p.secret}, "", "  ")
	return append(data, '\n'), err
}

// ParsePending decodes what Marshal encoded. Its errors do not show what is in there.
func ParsePending(data []byte) (*Pending, error) {
	if len(data) > maxPendingSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "a pending challenge of %d bytes, at most %d", len(data), maxPendingSize)
	}
	var f pendingFile
	if strictjson.Decode(data, &f) != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "not a pending challenge")
	}
	if f.Version != version {
		return nil, attestation.Refuse(attestation.ReasonVersion, "pending challenge of version %d, this program reads %d", f.Version, version)
	}
	if len(f.EndorsementKey) != sha256.Size || len(f.AttestationKey) != nameSize || len(f.Binding) != attestation.BindingSize || len(f.Secret) != secretSize {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "not a pending challenge")
	}
	return &Pending{f.EndorsementKey, f.AttestationKey, f.Binding, f.Secret}, nil
}

// Subject is the endorsement key that evidence names as its TPM's: the prover's word,
// until a verifier has returned it in claims.
func Subject(e *attestation.Evidence) (attestation.Identity, error) {
	m, err := parsePayload(e)
	if err != nil {
		return attestation.Identity{}, err
	}
	id, err := endorsementIdentity(m.EndorsementKey)
	return attestation.Identity{Kind: attestation.EndorsementKey, Value: id}, err
}
