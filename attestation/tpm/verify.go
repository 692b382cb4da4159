// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// VerifierOptions adjust a Verifier. The zero value is the right one for most.
type VerifierOptions struct {
	// Predictions explain refusals: what was booted is compared event by event with
	// the closest one. They decide nothing, the policy does.
	Predictions []*measurements.Prediction
	// Now is the time to judge by, the system's if nil.
	Now func() time.Time
}

// Verifier implements attestation.Verifier by a policy. The zero value refuses all
// evidence.
type Verifier struct {
	policy      *policy.Document
	roots       *x509.CertPool
	predictions []*measurements.Prediction
	clock       func() time.Time
}

// NewVerifier makes a verifier of a policy that allows this technology.
func NewVerifier(p *policy.Document, o VerifierOptions) (*Verifier, error) {
	if p == nil || p.Measurements == nil {
		return nil, attestation.Refuse(attestation.ReasonPolicy, "a verifier needs a policy")
	}
	if !p.Allows(Technology) {
		return nil, attestation.Refuse(attestation.ReasonTechnology, "the policy does not allow technology %q", Technology)
	}
	v := &Verifier{policy: p, roots: x509.NewCertPool(), predictions: o.Predictions, clock: o.Now}
	for _, c := range p.Authorities {
		v.roots.AddCert(c)
	}
	return v, nil
}

// Technology implements attestation.Verifier.
func (v *Verifier) Technology() attestation.Technology { return Technology }

// Mismatch is in the chain of a refusal for what was booted.
type Mismatch struct {
	// Comparison with the closest prediction; nil if the verifier has none.
	Comparison *measurements.Comparison
	// PCRs are the values that the TPM signed.
	PCRs measurements.Banks
	Err  error
}

// Error implements error.
func (m *Mismatch) Error() string { return m.Err.Error() }

// Unwrap returns the policy's refusal.
func (m *Mismatch) Unwrap() error { return m.Err }

// Verify implements attestation.Verifier. The checks go from the signature inwards;
// each uses only what an earlier one has shown to be signed, and the challenge,
// which costs a round trip and the prover's TPM some time, comes last.
func (v *Verifier) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	return v.verify(e, b, func(endorsementKey, attestationKey []byte) error {
		return checkResidence(ctx, endorsementKey, attestationKey, b, ask)
	})
}

// verify makes all the checks; resident is the last, that the attestation key is in
// the TPM of the endorsement key.
func (v *Verifier) verify(e *attestation.Evidence, b attestation.Binding, resident func(endorsementKey, attestationKey []byte) error) (*attestation.Claims, error) {
	if v == nil || v.policy == nil {
		return nil, attestation.Refuse(attestation.ReasonPolicy, "the verifier was not made by NewVerifier, and has no policy")
	}
	m, err := parsePayload(e)
	if err != nil {
		return nil, err
	}
	key, err := parseAttestationKey(m.AttestationKey)
	if err != nil {
		return nil, err
	}
	if err := checkSignature(key, m.Quote, m.Signature); err != nil {
		return nil, err
	}
	q, err := parseQuote(m.Quote)
	if err != nil {
		return nil, err
	}
	pcrs, err := q.check(b, m.AttestationKey, m.Banks)
	if err != nil {
		return nil, err
	}
	endorsement, err := parseEndorsementKey(m.EndorsementKey)
	if err != nil {
		return nil, err
	}
	id, grant, err := v.checkEndorsement(endorsement, m.EndorsementCertificates)
	if err != nil {
		return nil, err
	}
	if err := checkLog(m.EventLog, pcrs); err != nil {
		return nil, err
	}
	image, err := v.policy.CheckPCRs(pcrs, v.now())
	if err != nil {
		return nil, &Mismatch{Comparison: v.explain(pcrs, m.EventLog), PCRs: pcrs, Err: err}
	}
	if err := resident(m.EndorsementKey, m.AttestationKey); err != nil {
		return nil, err
	}
	return &attestation.Claims{
		Technology: Technology,
		Image:      image,
		PCRs:       pcrs,
		Identities: []attestation.Identity{id},
		Grant:      grant,
		Debug:      attestation.DebugUnknown,
		Boot:       &q.boot,
		Properties: attestation.Properties{attestation.PropertyFresh, attestation.PropertyBoot, attestation.PropertyResident, attestation.PropertyEndorsed},
		Key:        m.AttestationKey,
	}, nil
}

func parsePayload(e *attestation.Evidence) (*api.TPM, error) {
	payload, err := e.Payload(Technology)
	if err != nil {
		return nil, err
	}
	m := &api.TPM{}
	if err := attestation.DecodeStrict(payload, attestation.MaxEvidenceSize, m); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	if m.Version != version {
		return nil, attestation.Refuse(attestation.ReasonVersion, "tpm: version %d, this program reads %d", m.Version, version)
	}
	return m, nil
}

// checkLog wants a log that replays to the quoted registers. PCR 10 is the kernel's
// own, and PCR 15 the cluster's: firmware's log ends before both, and is refused if it
// tells of them or of registers that are not quoted.
func checkLog(raw []byte, pcrs measurements.Banks) error {
	if len(raw) == 0 {
		return attestation.Refuse(attestation.ReasonEventLog, "there is no event log")
	}
	log, err := tcg.Parse(raw)
	if err != nil {
		return attestation.Refuse(attestation.ReasonEventLog, "%w", err)
	}
	for i := range log.Events {
		if e := &log.Events[i]; e.Extends() && !measurements.InFirmwareLog(e.PCR) {
			return attestation.Refuse(attestation.ReasonEventLog, "the log has an event of PCR %d, which it cannot account for", e.PCR)
		}
	}
	for _, alg := range measurements.Algorithms() {
		if pcrs[alg] == nil {
			continue
		}
		values, err := alg.ReplayLog(log)
		if err != nil {
			return attestation.Refuse(attestation.ReasonEventLog, "%w", err)
		}
		for pcr, seen := range pcrs[alg] {
			if measurements.InFirmwareLog(pcr) && !bytes.Equal(values[pcr], seen) {
				return attestation.Refuse(attestation.ReasonEventLog, "the log does not lead to the quoted %s PCR %d", alg, pcr)
			}
		}
	}
	return nil
}

// explain compares with the prediction that fewest findings speak against.
func (v *Verifier) explain(pcrs measurements.Banks, log []byte) *measurements.Comparison {
	var closest *measurements.Comparison
	fewest := 0
	for _, p := range v.predictions {
		c, err := measurements.Compare(p, &measurements.Observed{Version: measurements.Version, PCRs: pcrs, EventLog: log})
		if err != nil {
			continue
		}
		n := 0
		for _, f := range c.Findings {
			if f.Fails {
				n++
			}
		}
		if closest == nil || n < fewest {
			closest, fewest = c, n
		}
	}
	return closest
}

// Explanation is the comparison in err's chain, nil if there is none.
func Explanation(err error) *measurements.Comparison {
	var m *Mismatch
	if errors.As(err, &m) {
		return m.Comparison
	}
	return nil
}
