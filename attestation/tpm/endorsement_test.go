// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
)

// TestEndorsement (V7).
func TestEndorsement(t *testing.T) {
	p, c := boot("good"), newCA(t)
	other := newCA(t)
	authority := verifier(t, policyOf(t, p, [][]byte{c.der}))
	inventory := verifier(t, policyOf(t, p, nil, newFake(t, "one", nil, p).identity()))
	one, two := newFake(t, "one", c, p), newFake(t, "two", c, p)
	foreign := newFake(t, "two", other, p)
	certified := func(change func(*x509.Certificate)) *fake {
		f := newFake(t, "one", nil, p)
		f.certificates = [][]byte{c.certify(t, &f.ek.PublicKey, change)}
		return f
	}
	for _, tc := range []struct {
		name   string
		v      *Verifier
		prover attestation.Responder
		want   attestation.Reason
	}{
		{"a second honest TPM that is not listed", inventory, two, attestation.ReasonIdentity},
		{"no certificate", authority, newFake(t, "one", nil, p), attestation.ReasonIdentity},
		{"another authority", authority, foreign, attestation.ReasonIdentity},
		{"another TPM's certificate", authority, &spliced{foreign, t, func(m *api.TPM) { m.EndorsementCertificates = one.certificates }}, attestation.ReasonIdentity},
		{"another TPM's endorsement key and certificate", authority,
			&spliced{foreign, t, func(m *api.TPM) { m.EndorsementKey, m.EndorsementCertificates = one.ekPublic(), one.certificates }}, attestation.ReasonChallenge},
		{"expired", authority, certified(func(x *x509.Certificate) { x.NotAfter = now.AddDate(0, 0, -1) }), attestation.ReasonIdentity},
		{"a certificate for something else", authority, certified(func(x *x509.Certificate) { x.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }), attestation.ReasonIdentity},
		{"a certificate of an authority", authority, certified(func(x *x509.Certificate) { x.IsCA, x.BasicConstraintsValid = true, true }), attestation.ReasonIdentity},
		{"the authority's own certificate", authority, &spliced{one, t, func(m *api.TPM) { m.EndorsementCertificates = [][]byte{c.der} }}, attestation.ReasonIdentity},
		{"not a certificate", authority, &spliced{one, t, func(m *api.TPM) { m.EndorsementCertificates = [][]byte{{1}} }}, attestation.ReasonMalformed},
		{"V12: many certificates", authority, &spliced{one, t, func(m *api.TPM) {
			m.EndorsementCertificates = slices.Repeat(one.certificates, maxCertificates+1)
		}}, attestation.ReasonTooLarge},
		{"V12: a long certificate", authority, &spliced{one, t, func(m *api.TPM) {
			m.EndorsementCertificates = [][]byte{make([]byte, maxCertificateSize+1)}
		}}, attestation.ReasonTooLarge},
		{"a storage key as endorsement key", authority, &spliced{one, t, func(m *api.TPM) { m.EndorsementKey = tpm2.Marshal(tpm2.RSASRKTemplate) }}, attestation.ReasonKey},
		{"an even modulus", authority, &spliced{one, t, func(m *api.TPM) { m.EndorsementKey[len(m.EndorsementKey)-1] &^= 1 }}, attestation.ReasonMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) { wantRefusal(t, tc.v, tc.prover, tc.want) })
	}
	t.Run("through an intermediate authority", func(t *testing.T) {
		middle := newCA(t)
		parent, err := x509.ParseCertificate(c.der)
		if err != nil {
			t.Fatal(err)
		}
		template, err := x509.ParseCertificate(middle.der)
		if err != nil {
			t.Fatal(err)
		}
		template.Subject.CommonName, template.RawSubject = "intermediate", nil
		if middle.der, err = x509.CreateCertificate(rand.Reader, template, parent, middle.key.Public(), c.key); err != nil {
			t.Fatal(err)
		}
		f := newFake(t, "one", middle, p)
		wantRefusal(t, authority, f, attestation.ReasonIdentity)
		f.certificates = append(f.certificates, middle.der)
		if _, err := judge(t, authority, f, attestation.Binding{1}); err != nil {
			t.Error(err)
		}
	})
}

// TestEndorsementByTheVerifiersClock: a certificate that has expired by the verifier's
// clock is not saved by the system's.
func TestEndorsementByTheVerifiersClock(t *testing.T) {
	p, c := boot("good"), newCA(t)
	f := newFake(t, "one", nil, p)
	f.certificates = [][]byte{c.certify(t, &f.ek.PublicKey, func(x *x509.Certificate) {
		x.NotBefore, x.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().AddDate(1, 0, 0)
	})}
	v, err := NewVerifier(policyOf(t, p, [][]byte{c.der}), VerifierOptions{Now: func() time.Time { return time.Now().AddDate(2, 0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, v, f, attestation.ReasonIdentity)
}

func TestParseChallenge(t *testing.T) {
	f := newFake(t, "one", nil, boot("good"))
	good, err := makeChallenge(f.ekPublic(), f.akPublic(), make([]byte, secretSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := parseChallenge(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	object := 2 + int(binary.BigEndian.Uint16(good))
	for name, challenge := range map[string][]byte{
		"nothing":             nil,
		"no secret":           good[:object],
		"cut short":           good[:len(good)-1],
		"followed by a byte":  append(bytes.Clone(good), 0),
		"an empty credential": append([]byte{0, 0}, good[object:]...),
		"an empty secret":     append(bytes.Clone(good[:object]), 0, 0),
	} {
		if _, _, err := parseChallenge(challenge); attestation.ReasonOf(err) != attestation.ReasonMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChallenge: without the TPM there is no answer.
func TestChallenge(t *testing.T) {
	p, c := boot("good"), newCA(t)
	v := verifier(t, policyOf(t, p, [][]byte{c.der}))
	f := newFake(t, "one", c, p)
	b := attestation.Binding{1}
	e, err := f.Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		ask  attestation.Challenger
		want attestation.Reason
	}{
		{"nobody to ask", nil, attestation.ReasonChallengeMissing},
		{"no answer", func(context.Context, []byte) ([]byte, error) { return nil, nil }, attestation.ReasonChallenge},
		{"the challenge returned", func(_ context.Context, x []byte) ([]byte, error) { return x, nil }, attestation.ReasonChallenge},
		{"V3: an answer for another connection", func(ctx context.Context, x []byte) ([]byte, error) {
			return f.Respond(ctx, attestation.Binding{2}, x)
		}, attestation.ReasonChallenge},
		{"a broken connection", func(context.Context, []byte) ([]byte, error) {
			return nil, attestation.Refuse(attestation.ReasonClosed, "closed")
		}, attestation.ReasonClosed},
		{"the right answer", func(ctx context.Context, x []byte) ([]byte, error) { return f.Respond(ctx, b, x) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := v.Verify(t.Context(), e, b, tc.ask)
			if attestation.ReasonOf(err) != tc.want || (claims == nil) != (tc.want != 0) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
