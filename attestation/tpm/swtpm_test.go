// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package tpm

import (
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/measurements"
)

// bootOn extends a TPM's registers as a boot would.
func bootOn(t *testing.T, tpm transport.TPM, p *measurements.Prediction) []byte {
	t.Helper()
	o := machine(p)
	for _, e := range p.Events {
		swtpmtest.Extend(t, tpm, e.PCR, e.Digests)
	}
	aggregate, err := measurements.BootAggregate(o.PCRs[measurements.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	swtpmtest.Extend(t, tpm, 10, aggregate)
	return o.EventLog
}

func issuerOn(t *testing.T, tpm transport.TPM, log []byte) *Issuer {
	t.Helper()
	i, err := NewIssuer(tpm, IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

func TestSoftwareTPM(t *testing.T) {
	ca := swtpmtest.NewAuthority(t)
	p := boot("good")
	first, second := swtpmtest.Start(t, ca), swtpmtest.Start(t, ca)
	one := issuerOn(t, first, bootOn(t, first, p))
	two := issuerOn(t, second, bootOn(t, second, p))
	now = time.Now() // swtpm_localca certifies from today on
	byAuthority := verifier(t, policyOf(t, p, [][]byte{ca.Certificate(t)}), p)
	b := attestation.Binding{1}

	claims, err := judge(t, byAuthority, one, b)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Image != "image" || len(claims.PCRs) != 2 || claims.Boot.Restarts != 0 || !claims.Properties.Proven(attestation.PropertyResident) {
		t.Errorf("claims are %+v", claims)
	}

	t.Run("V7: a second honest TPM with the same registers", func(t *testing.T) {
		v := verifier(t, policyOf(t, p, nil, claims.Identities...), p)
		accepted, err := judge(t, v, one, b)
		if err != nil || accepted.Grant == nil || accepted.Grant.Name != "node-1" {
			t.Errorf("the listed TPM: %+v, %v", accepted, err)
		}
		wantRefusal(t, v, two, attestation.ReasonIdentity)
	})
	t.Run("V7: an attestation key from another TPM", func(t *testing.T) {
		wantRefusal(t, byAuthority, &spliced{Responder: two, t: t, claim: func(m *api.TPM) {
			m.EndorsementKey, m.EndorsementCertificates = one.ek.public, one.certificates
		}}, attestation.ReasonChallenge)
	})
	t.Run("V4: an old quote", func(t *testing.T) {
		e, err := one.Issue(t.Context(), attestation.Binding{9})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := byAuthority.Verify(t.Context(), e, b, nil); attestation.ReasonOf(err) != attestation.ReasonBinding {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an authority of somebody else", func(t *testing.T) {
		wantRefusal(t, verifier(t, policyOf(t, p, [][]byte{newCA(t).der}), p), one, attestation.ReasonIdentity)
	})
	t.Run("another command line", func(t *testing.T) {
		v := verifier(t, policyOf(t, boot("evil"), [][]byte{ca.Certificate(t)}), boot("evil"))
		_, err := judge(t, v, one, b)
		if attestation.ReasonOf(err) != attestation.ReasonMeasurements {
			t.Fatalf("got %v", err)
		}
		if c := Explanation(err); c == nil || c.Findings[0].Component != measurements.ComponentCmdline {
			t.Errorf("explained as %+v", c)
		}
	})
	t.Run("a register extended after boot", func(t *testing.T) {
		swtpmtest.Extend(t, second, 15, measurements.Sum([]byte("x")))
		wantRefusal(t, byAuthority, two, attestation.ReasonMeasurements)
	})
	t.Run("an ECC endorsement key", func(t *testing.T) {
		other := swtpmtest.Start(t, ca)
		i := issuerOn(t, other, bootOn(t, other, p))
		if err := i.flush(i.ek); err != nil {
			t.Fatal(err)
		}
		if i.ek, err = i.createPrimary(tpm2.ECCEKTemplate); err != nil {
			t.Fatal(err)
		}
		key, err := parseEndorsementKey(i.ek.public)
		if err != nil {
			t.Fatal(err)
		}
		id, err := identity(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := judge(t, verifier(t, policyOf(t, p, nil, id), p), i, b); err != nil {
			t.Error(err)
		}
	})
	t.Run("a closed issuer", func(t *testing.T) {
		if err := two.Close(); err != nil {
			t.Error(err)
		}
		if _, err := two.Issue(t.Context(), b); err == nil {
			t.Error("a closed issuer issues")
		}
	})
}
