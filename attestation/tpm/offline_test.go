// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
)

// TestVerifyAnswered: evidence, challenge and answer travel by file.
func TestVerifyAnswered(t *testing.T) {
	p, c := boot("good"), newCA(t)
	b, err := attestation.NonceBinding(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	one, two := newFake(t, "one", c, p), newFake(t, "two", c, p)
	v := verifier(t, policyOf(t, p, [][]byte{c.der}), p)
	issue := func(prover attestation.Issuer, b attestation.Binding) *attestation.Evidence {
		t.Helper()
		e, err := prover.Issue(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	challenge := func(e *attestation.Evidence, b attestation.Binding) ([]byte, *Pending) {
		t.Helper()
		challenge, pending, err := NewChallenge(e, b)
		if err != nil {
			t.Fatal(err)
		}
		return challenge, pending
	}
	respond := func(f *fake, b attestation.Binding, challenge []byte) []byte {
		t.Helper()
		answer, err := f.Respond(t.Context(), b, challenge)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	evidence := issue(one, b)
	question, pending := challenge(evidence, b)
	answer := respond(one, b, question)

	claims, err := v.VerifyAnswered(evidence, b, pending, answer)
	if err != nil || !claims.Properties.Proven(attestation.PropertyResident) {
		t.Fatalf("got %+v, %v", claims, err)
	}

	otherQuestion, otherPending := challenge(issue(two, b), b)
	oldQuestion, oldPending := challenge(evidence, attestation.Binding{1})
	// An attacker has a key of its own challenged together with the endorsement key of
	// its own TPM, and then shows it beside another's.
	spliced := &spliced{Responder: two, claim: func(m *api.TPM) { m.EndorsementKey, m.EndorsementCertificates = one.ekPublic(), one.certificates }}
	for _, tc := range []struct {
		name     string
		evidence *attestation.Evidence
		binding  attestation.Binding
		pending  *Pending
		answer   []byte
		want     attestation.Reason
	}{
		{"not challenged", evidence, b, nil, nil, attestation.ReasonChallengeMissing},
		{"not challenged, but answered", evidence, b, nil, answer, attestation.ReasonChallengeMissing},
		{"not answered", evidence, b, pending, nil, attestation.ReasonChallenge},
		{"an answer of zeros", evidence, b, pending, make([]byte, 32), attestation.ReasonChallenge},
		{"the secret itself", evidence, b, pending, pending.secret, attestation.ReasonChallenge},
		{"an answer for a connection", evidence, b, pending, respond(one, attestation.Binding{1}, question), attestation.ReasonChallenge},
		{"V4: evidence for another nonce", issue(one, attestation.Binding{1}), b, pending, answer, attestation.ReasonBinding},
		{"V4: a challenge for another nonce", evidence, b, oldPending, respond(one, b, oldQuestion), attestation.ReasonChallenge},
		{"V7: a challenge for another TPM", evidence, b, otherPending, respond(two, b, otherQuestion), attestation.ReasonChallenge},
		{"V7: another attestation key than was challenged", issue(spliced, b), b, pending, answer, attestation.ReasonChallenge},
		{"V7: an attestation key from another TPM", issue(spliced, b), b, otherPending, respond(two, b, otherQuestion), attestation.ReasonChallenge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := v.VerifyAnswered(tc.evidence, tc.binding, tc.pending, tc.answer)
			if attestation.ReasonOf(err) != tc.want || claims != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestNewChallengeRefuses(t *testing.T) {
	p := boot("good")
	for name, tc := range map[string]struct {
		alter func(*api.TPM)
		want  attestation.Reason
	}{
		"an unrestricted key":             {func(m *api.TPM) { m.AttestationKey[attributesOffset+1] ^= 1 }, attestation.ReasonKey},
		"an endorsement key that is none": {func(m *api.TPM) { m.EndorsementKey = m.AttestationKey }, attestation.ReasonKey},
		"no endorsement key":              {func(m *api.TPM) { m.EndorsementKey = nil }, attestation.ReasonKey},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "one", nil, p)
			f.alter = tc.alter
			e, err := f.Issue(t.Context(), attestation.Binding{1})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := NewChallenge(e, attestation.Binding{1}); attestation.ReasonOf(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, _, err := NewChallenge(attestation.NewEvidence("other", []byte{1}), attestation.Binding{}); attestation.ReasonOf(err) != attestation.ReasonTechnology {
		t.Errorf("another technology: %v", err)
	}
}

func TestPending(t *testing.T) {
	e, err := newFake(t, "one", nil, boot("good")).Issue(t.Context(), attestation.Binding{1})
	if err != nil {
		t.Fatal(err)
	}
	_, pending, err := NewChallenge(e, attestation.Binding{1})
	if err != nil {
		t.Fatal(err)
	}
	data, err := pending.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePending(data)
	if diff := cmp.Diff(pending, again, cmp.AllowUnexported(Pending{})); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	secret := hex.EncodeToString(pending.secret)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if shown := fmt.Sprintf(verb, pending); strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprint(pending.secret)) {
			t.Errorf("%s shows the secret", verb)
		}
	}
	change := func(key string, value any) []byte {
		m := map[string]any{}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tc := range map[string]struct {
		data []byte
		want attestation.Reason
	}{
		"too large":        {make([]byte, maxPendingSize+1), attestation.ReasonTooLarge},
		"cut short":        {data[:len(data)/2], attestation.ReasonMalformed},
		"followed":         {append(bytes.Clone(data), "{}"...), attestation.ReasonMalformed},
		"an unknown field": {change("more", 1), attestation.ReasonMalformed},
		"another version":  {change("version", 2), attestation.ReasonVersion},
		"a short secret":   {change("secret", "ab"), attestation.ReasonMalformed},
		"no secret":        {change("secret", nil), attestation.ReasonMalformed},
		"no keys":          {change("endorsement_key", ""), attestation.ReasonMalformed},
		"a short name":     {change("attestation_key", "000b"), attestation.ReasonMalformed},
		"a short binding":  {change("binding", "ab"), attestation.ReasonMalformed},
		"a broken secret":  {change("secret", secret+"x"), attestation.ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParsePending(tc.data)
			if attestation.ReasonOf(err) != tc.want || p != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the error shows the secret")
			}
		})
	}
}

func FuzzParsePending(f *testing.F) {
	p := &Pending{endorsementKey: make([]byte, 32), attestationKey: make([]byte, nameSize), binding: make([]byte, attestation.BindingSize), secret: make([]byte, secretSize)}
	seed, err := p.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePending(data)
		if (p == nil) != (err != nil) || (err != nil && attestation.ReasonOf(err) == attestation.ReasonInternal) {
			t.Fatalf("got %v, %v", p, err)
		}
		if err != nil {
			return
		}
		again, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParsePending(again); err != nil || !cmp.Equal(p, q, cmp.AllowUnexported(Pending{})) {
			t.Fatalf("%v is not what was written: %v", q, err)
		}
	})
}
