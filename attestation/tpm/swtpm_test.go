// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package tpm

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
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

// racing is a TPM of which something else extends a register after each quote, so
// often as is left.
type racing struct {
	transport.TPM
	t    *testing.T
	left int
}

func (r *racing) Send(command []byte) ([]byte, error) {
	answer, err := r.TPM.Send(command)
	if code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])); code == tpm2.TPMCCQuote && r.left > 0 {
		r.left--
		swtpmtest.Extend(r.t, r.TPM, 11, measurements.Sum([]byte("late")))
	}
	return answer, err
}

// wantRegisters wants the registers that were quoted.
func wantRegisters(t *testing.T, e *attestation.Evidence) {
	t.Helper()
	m, err := parsePayload(e)
	if err != nil {
		t.Fatal(err)
	}
	q, err := parseQuote(m.Quote)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.registers(m.Banks); err != nil {
		t.Error(err)
	}
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
	if id, err := one.Identity(); err != nil || !slices.EqualFunc([]attestation.Identity{id}, claims.Identities, func(a, b attestation.Identity) bool {
		return a.Kind == b.Kind && bytes.Equal(a.Value, b.Value)
	}) {
		t.Errorf("the issuer says that it is %v, %v, and the claims %v", id, err, claims.Identities)
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
	t.Run("a register extended between quote and reading", func(t *testing.T) {
		for _, tc := range []struct {
			times int // that it happens
			want  string
		}{{0, ""}, {1, ""}, {quoteAttempts - 1, ""}, {quoteAttempts, "the registers keep changing"}} {
			device := &racing{TPM: swtpmtest.Start(t, ca), t: t}
			i := issuerOn(t, device, []byte{1})
			device.left = tc.times
			e, err := i.Issue(t.Context(), b)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%d times: %v, want %q", tc.times, err, tc.want)
			}
			if err == nil {
				wantRegisters(t, e)
			}
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
