// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"github.com/google/go-tpm/tpm2"

	"github.com/constellation-os/constellation/attestation"
)

// secretSize is the length of a credential in bytes, that of the hash of the
// endorsement key's name (TPM 2.0 Library Part 1, section 24.4).
const secretSize = sha256.Size

// activationLabel is what a response is computed over, before the binding.
const activationLabel = "constellation tpm activation v1"

// errNotChallenged refuses evidence that is good as far as it goes.
var errNotChallenged = attestation.Refuse(attestation.ReasonChallengeMissing, "without a challenge nothing shows that the attestation key is in the endorsed TPM")

// response proves knowledge of an activated secret for one binding. The secret
// itself is never shown, so that a prover cannot be used to activate credentials
// that somebody else made for another purpose.
func response(secret []byte, b attestation.Binding) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(activationLabel))
	m.Write(b[:])
	return m.Sum(nil)
}

// checkResidence challenges the prover to activate a credential, which needs the TPM
// of the endorsement key with the attestation key in it.
func checkResidence(ctx context.Context, endorsementKey, attestationKey []byte, b attestation.Binding, ask attestation.Challenger) error {
	if ask == nil {
		return errNotChallenged
	}
	secret := make([]byte, secretSize)
	rand.Read(secret)
	challenge, err := makeChallenge(endorsementKey, attestationKey, secret)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, challenge)
	if err != nil {
		return err
	}
	if !hmac.Equal(answer, response(secret, b)) {
		return attestation.Refuse(attestation.ReasonChallenge, "the attestation key is not in the TPM of the endorsement key")
	}
	return nil
}

// makeChallenge does what TPM2_MakeCredential does: a TPM2B_ID_OBJECT and after it a
// TPM2B_ENCRYPTED_SECRET.
func makeChallenge(endorsementKey, attestationKey, secret []byte) ([]byte, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](endorsementKey)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "endorsement key: %w", err)
	}
	key, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonKey, "endorsement key: %w", err)
	}
	object, encrypted, err := tpm2.CreateCredential(rand.Reader, key, name(attestationKey), secret)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonKey, "endorsement key: %w", err)
	}
	return append(tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: object}), tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: encrypted})...), nil
}

// parseChallenge is makeChallenge's other end.
func parseChallenge(challenge []byte) (object, encrypted []byte, err error) {
	r := &reader{rest: challenge}
	object, encrypted = r.sized(), r.sized()
	if !r.done() || len(object) == 0 || len(encrypted) == 0 {
		return nil, nil, attestation.Refuse(attestation.ReasonMalformed, "challenge of %d bytes is not a credential", len(challenge))
	}
	return object, encrypted, nil
}
