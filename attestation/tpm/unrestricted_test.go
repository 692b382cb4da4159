// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package tpm

import (
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/measurements"
)

// quoter lets a real TPM sign, by an unrestricted key of its own, what looks like a
// quote over registers that it does not have.
type quoter struct {
	*Issuer
	t       *testing.T
	claimed []byte // TPMT_PUBLIC in the evidence
	pretend *measurements.Observed
}

func (q *quoter) Issue(b attestation.Binding) *attestation.Evidence {
	q.t.Helper()
	data := qualifyingData(b)
	m := &api.TPM{Version: version, AttestationKey: q.claimed, EndorsementKey: q.ek.public, EventLog: q.pretend.EventLog}
	h := sha256.New()
	for _, alg := range measurements.Algorithms() {
		values := &api.Bank{Algorithm: uint32(alg.TCG())}
		for pcr := range measurements.PCRCount {
			values.Values = append(values.Values, q.pretend.PCRs[alg][pcr]...)
		}
		h.Write(values.Values)
		m.Banks = append(m.Banks, values)
	}
	m.Quote = (&fakeQuote{magic: generatedValue, typ: attestQuote, signer: qualifiedName(q.claimed), extraData: data[:], safe: 1,
		hashes: []uint16{algSHA256, algSHA384}, selected: allPCRs, digest: h.Sum(nil)}).marshal(0)
	digest := sha256.Sum256(m.Quote)
	signed, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: q.ak.handle, Name: q.ak.name, Auth: tpm2.PasswordAuth(nil)},
		Digest:    tpm2.TPM2BDigest{Buffer: digest[:]},
		InScheme:  tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		// TPM2_Sign with a restricted key would want a ticket: that the TPM hashed the
		// message, and that it does not begin as a quote does.
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(q.tpm)
	if err != nil {
		q.t.Fatal(err)
	}
	m.Signature = tpm2.Marshal(signed.Signature)
	payload, err := proto.Marshal(m)
	if err != nil {
		q.t.Fatal(err)
	}
	return attestation.NewEvidence(Technology, payload)
}

// TestUnrestrictedKeyOfARealTPM (V6): the machine booted nothing that is accepted,
// and signs with a key in its genuine, listed TPM that it did.
func TestUnrestrictedKeyOfARealTPM(t *testing.T) {
	p := boot("good")
	i := issuerOn(t, swtpmtest.Start(t, swtpmtest.NewAuthority(t)), machine(p).EventLog)
	endorsement, err := parseEndorsementKey(i.ek.public)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity(endorsement)
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, policyOf(t, p, nil, id))
	b := attestation.Binding{1}

	template := attestationTemplate()
	template.ObjectAttributes.Restricted = false
	if err := i.flush(i.ak); err != nil {
		t.Fatal(err)
	}
	if i.ak, err = i.createPrimary(template); err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](i.ak.public)
	if err != nil {
		t.Fatal(err)
	}
	public.ObjectAttributes.Restricted = true
	for name, tc := range map[string]struct {
		claimed []byte
		want    attestation.Reason
	}{
		"as what it is":             {i.ak.public, attestation.ReasonKey},
		"as one that is restricted": {tpm2.Marshal(public), attestation.ReasonChallenge},
	} {
		t.Run(name, func(t *testing.T) {
			q := &quoter{Issuer: i, t: t, claimed: tc.claimed, pretend: machine(p)}
			claims, err := v.Verify(t.Context(), q.Issue(b), b, answeredBy(i, b))
			if attestation.ReasonOf(err) != tc.want || claims != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
