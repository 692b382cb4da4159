// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func wantRefusal(t *testing.T, v *Verifier, prover attestation.Responder, want attestation.Reason) {
	t.Helper()
	claims, err := judge(t, v, prover, attestation.Binding{1})
	if err == nil || attestation.ReasonOf(err) != want || claims != nil {
		t.Errorf("got %v, want a refusal with %v", err, want)
	}
}

// spliced changes a genuine prover's evidence, after it was signed.
type spliced struct {
	attestation.Responder
	t     *testing.T
	claim func(*api.TPM)
}

func (s *spliced) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	e, err := s.Responder.Issue(ctx, b)
	if err != nil {
		return nil, err
	}
	m, err := parsePayload(e)
	if err != nil {
		return nil, err
	}
	s.claim(m)
	payload, err := proto.Marshal(m)
	return attestation.NewEvidence(Technology, payload), err
}

func TestVerify(t *testing.T) {
	p, c := boot("good"), newCA(t)
	f := newFake(t, "one", c, p)
	for name, v := range map[string]*Verifier{
		"by an authority":  verifier(t, policyOf(t, p, [][]byte{c.der})),
		"by the inventory": verifier(t, policyOf(t, p, nil, f.identity())),
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := judge(t, v, f, attestation.Binding{1})
			if err != nil {
				t.Fatal(err)
			}
			if claims.Image != "image" || claims.Identities[0].Value.String() != f.identity().Value.String() || claims.Boot.Resets != 7 {
				t.Errorf("claims are %+v", claims)
			}
			if missing := claims.Properties.Missing(); !slices.Equal(missing, []attestation.Property{attestation.PropertyConfidential}) {
				t.Errorf("not proven: %v", missing)
			}
			if (claims.Grant != nil) != (name == "by the inventory") {
				t.Errorf("granted %v", claims.Grant)
			}
		})
	}
}

// TestQuoteShapes (V4, V5, V6): everything here is signed by the attestation key, or
// was changed after the signature, and refused for what it is.
func TestQuoteShapes(t *testing.T) {
	p, c := boot("good"), newCA(t)
	v := verifier(t, policyOf(t, p, [][]byte{c.der}))
	for _, tc := range []struct {
		name  string
		bend  func(*fakeQuote)
		alter func(*api.TPM)
		want  attestation.Reason
	}{
		{"V4: no nonce", func(q *fakeQuote) { q.extraData = nil }, nil, attestation.ReasonBinding},
		{"V4: an old nonce", func(q *fakeQuote) { h := qualifyingData(attestation.Binding{2}); q.extraData = h[:] }, nil, attestation.ReasonBinding},
		{"V4: a longer nonce", func(q *fakeQuote) { q.extraData = append(q.extraData, 0) }, nil, attestation.ReasonBinding},
		{"V6: wrong magic", func(q *fakeQuote) { q.magic++ }, nil, attestation.ReasonStructure},
		{"V6: wrong type", func(q *fakeQuote) { q.typ = 0x8017 }, nil, attestation.ReasonStructure},
		{"V6: a register less is selected", func(q *fakeQuote) { q.selected = []byte{0xff, 0x7f, 0} }, nil, attestation.ReasonSelection},
		{"V6: nothing is selected", func(q *fakeQuote) { q.selected = []byte{0, 0, 0} }, nil, attestation.ReasonSelection},
		{"V6: a register more is selected", func(q *fakeQuote) { q.selected = []byte{0xff, 0xff, 1} }, nil, attestation.ReasonSelection},
		{"V6: no bank", func(q *fakeQuote) { q.hashes = nil }, nil, attestation.ReasonSelection},
		{"V6: SHA-1", func(q *fakeQuote) { q.hashes = []uint16{4} }, nil, attestation.ReasonSelection},
		{"V6: SHA-384 only", func(q *fakeQuote) { q.hashes = []uint16{algSHA384} }, nil, attestation.ReasonSelection},
		{"V6: a bank twice", func(q *fakeQuote) { q.hashes = []uint16{algSHA256, algSHA256} }, nil, attestation.ReasonSelection},
		{"V6: bytes after the quote", func(q *fakeQuote) { q.trailer = []byte{0} }, nil, attestation.ReasonMalformed},
		{"V6: neither safe nor unsafe", func(q *fakeQuote) { q.safe = 2 }, nil, attestation.ReasonMalformed},
		{"V6: key of another hierarchy", func(q *fakeQuote) { q.signer = name([]byte("other")) }, nil, attestation.ReasonKey},
		{"V5: a bank that is not selected", func(q *fakeQuote) { q.hashes = q.hashes[:1] }, nil, attestation.ReasonUnselected},
		{"V5: a 17th register", nil, func(m *api.TPM) { m.Banks[0].Values = append(m.Banks[0].Values, make([]byte, 32)...) }, attestation.ReasonUnselected},
		{"V5: another bank's name", nil, func(m *api.TPM) { m.Banks[1].Algorithm = 4 }, attestation.ReasonUnselected},
		{"V5: a third bank", nil, func(m *api.TPM) { m.Banks = append(m.Banks, m.Banks[1]) }, attestation.ReasonUnselected},
		{"a bank less", nil, func(m *api.TPM) { m.Banks = m.Banks[:1] }, attestation.ReasonDigest},
		{"a register less", nil, func(m *api.TPM) { m.Banks[0].Values = m.Banks[0].Values[32:] }, attestation.ReasonDigest},
		{"another value", nil, func(m *api.TPM) { m.Banks[0].Values[15*32]++ }, attestation.ReasonDigest},
		{"a byte less", nil, func(m *api.TPM) { m.Banks[1].Values = m.Banks[1].Values[1:] }, attestation.ReasonDigest},
		{"a changed quote", nil, func(m *api.TPM) { m.Quote[len(m.Quote)-1]++ }, attestation.ReasonSignature},
		{"no signature", nil, func(m *api.TPM) { m.Signature = nil }, attestation.ReasonMalformed},
		{"a signature of zeros", nil, func(m *api.TPM) { m.Signature = []byte{0, algECDSA, 0, algSHA256, 0, 0, 0, 0} }, attestation.ReasonSignature},
		{"scheme RSASSA", nil, func(m *api.TPM) { m.Signature[1] = 0x14 }, attestation.ReasonScheme},
		{"scheme with SHA-1", nil, func(m *api.TPM) { m.Signature[3] = 4 }, attestation.ReasonScheme},
		{"bytes after the signature", nil, func(m *api.TPM) { m.Signature = append(m.Signature, 0) }, attestation.ReasonMalformed},
		{"V12: a long quote", nil, func(m *api.TPM) { m.Quote = make([]byte, maxQuoteSize+1) }, attestation.ReasonTooLarge},
		{"another version", nil, func(m *api.TPM) { m.Version = 2 }, attestation.ReasonVersion},
		{"an empty quote", nil, func(m *api.TPM) { *m = api.TPM{Version: 1} }, attestation.ReasonMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, "one", c, p)
			f.bend, f.alter = tc.bend, tc.alter
			wantRefusal(t, v, f, tc.want)
		})
	}
	t.Run("a TPM that was resumed", func(t *testing.T) {
		f := newFake(t, "one", c, p)
		f.restarts = 1
		wantRefusal(t, v, f, attestation.ReasonClock)
	})
}

// TestAttestationKeys (V6): keys that sign whatever they are given prove nothing.
func TestAttestationKeys(t *testing.T) {
	p, c := boot("good"), newCA(t)
	v := verifier(t, policyOf(t, p, [][]byte{c.der}))
	for _, tc := range []struct {
		name   string
		change func(*tpm2.TPMTPublic)
		want   attestation.Reason
	}{
		{"unrestricted", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.Restricted = false }, attestation.ReasonKey},
		{"can leave its TPM", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.FixedTPM = false }, attestation.ReasonKey},
		{"can be moved", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.FixedParent = false }, attestation.ReasonKey},
		{"imported", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.SensitiveDataOrigin = false }, attestation.ReasonKey},
		{"decrypts too", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.Decrypt = true }, attestation.ReasonKey},
		{"does not sign", func(k *tpm2.TPMTPublic) { k.ObjectAttributes.SignEncrypt = false }, attestation.ReasonKey},
		{"name by SHA-1", func(k *tpm2.TPMTPublic) { k.NameAlg = tpm2.TPMAlgSHA1 }, attestation.ReasonScheme},
		{"other curve", func(k *tpm2.TPMTPublic) {
			params, _ := k.Parameters.ECCDetail()
			k.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: params.Scheme, CurveID: tpm2.TPMECCNistP384})
		}, attestation.ReasonScheme},
		{"any scheme", func(k *tpm2.TPMTPublic) {
			k.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		}, attestation.ReasonScheme},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, "one", c, p)
			tc.change(&f.template)
			wantRefusal(t, v, f, tc.want)
		})
	}
	t.Run("claims to be restricted, and is not", func(t *testing.T) {
		// The TPM activates by the true name of its key, which has its attributes.
		f := newFake(t, "one", c, p)
		claimed := f.akPublic()
		f.bend = func(q *fakeQuote) { q.signer = qualifiedName(claimed) }
		f.alter = func(m *api.TPM) { m.AttestationKey = claimed }
		f.template.ObjectAttributes.Restricted = false
		wantRefusal(t, v, f, attestation.ReasonChallenge)
	})
	for name, alter := range map[string]func(*api.TPM){
		"no key":              func(m *api.TPM) { m.AttestationKey = nil },
		"a point off curve":   func(m *api.TPM) { m.AttestationKey[len(m.AttestationKey)-1] ^= 1 },
		"bytes after the key": func(m *api.TPM) { m.AttestationKey = append(m.AttestationKey, 0) },
		"cut short":           func(m *api.TPM) { m.AttestationKey = m.AttestationKey[:len(m.AttestationKey)-5] },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "one", c, p)
			f.alter = alter
			wantRefusal(t, v, f, attestation.ReasonMalformed)
		})
	}
}

// TestEventLog (V8, V9): the log is believed where it leads to the quoted registers,
// and decides nothing.
func TestEventLog(t *testing.T) {
	p, c := boot("good"), newCA(t)
	v := verifier(t, policyOf(t, p, [][]byte{c.der}), p)
	events := artifacttest.EventsOf(p)
	log := func(change func([]artifacttest.LogEvent) []artifacttest.LogEvent) []byte {
		return artifacttest.Log(measurements.Algorithms(), change(slices.Clone(events))...)
	}
	for _, tc := range []struct {
		name string
		log  []byte
		want attestation.Reason
	}{
		{"relabelled, digests as they were", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[4].Type, e[4].Data = tcg.Separator, []byte("nothing to see")
			return e
		}), 0},
		{"relabelled as not measured", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[4].Type = tcg.NoAction
			return e
		}), attestation.ReasonEventLog},
		{"reordered", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[4], e[5] = e[5], e[4]
			return e
		}), attestation.ReasonEventLog},
		{"dropped", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return slices.Delete(e, 4, 5) }), attestation.ReasonEventLog},
		{"appended", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 9, Type: tcg.EventTag, Digests: measurements.Sum([]byte("more"))})
		}), attestation.ReasonEventLog},
		{"appended and not measured", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 9, Type: tcg.NoAction, Data: []byte("more")})
		}), 0},
		{"moved to another register", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[4].PCR = 8
			return e
		}), attestation.ReasonEventLog},
		{"invented for the kernel's register", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 10, Type: tcg.IPL, Digests: measurements.Sum([]byte("more"))})
		}), attestation.ReasonEventLog},
		{"invented for the cluster's register", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 15, Type: tcg.IPL, Digests: measurements.Sum([]byte("more"))})
		}), attestation.ReasonEventLog},
		{"invented for a register that is not quoted", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 17, Type: tcg.IPL, Digests: measurements.Sum([]byte("more"))})
		}), attestation.ReasonEventLog},
		{"without the SHA-384 bank", artifacttest.Log(measurements.Algorithms()[:1], events...), attestation.ReasonEventLog},
		{"cut short", log(func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return e })[:200], attestation.ReasonEventLog},
		{"none", nil, attestation.ReasonEventLog},
		{"garbage", []byte("not a log"), attestation.ReasonEventLog},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, "one", c, p)
			f.alter = func(m *api.TPM) { m.EventLog = tc.log }
			claims, err := judge(t, v, f, attestation.Binding{1})
			if attestation.ReasonOf(err) != tc.want || (claims == nil) != (tc.want != 0) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestMeasurements: what was booted decides, and the difference is named. (V9: the
// evidence is consistent in itself, and brings its own log and registers.)
func TestMeasurements(t *testing.T) {
	good, evil, c := boot("good"), boot("evil"), newCA(t)
	farther := boot("neither")
	farther.Events[1].Digests = measurements.Sum([]byte("another uki"))
	farther.PCRs = farther.Replay()
	v := verifier(t, policyOf(t, good, [][]byte{c.der}), farther, good)
	_, err := judge(t, v, newFake(t, "one", c, evil), attestation.Binding{1})
	if attestation.ReasonOf(err) != attestation.ReasonMeasurements {
		t.Fatalf("got %v", err)
	}
	comparison := Explanation(err)
	if comparison == nil || comparison.Match {
		t.Fatalf("no explanation of %v", err)
	}
	var found bool
	for _, f := range comparison.Findings {
		found = found || f.PCR == 9 && f.Component == measurements.ComponentCmdline && f.Event == "good"
	}
	if !found {
		t.Errorf("the command line is not named: %+v", comparison.Findings)
	}
}

// TestIdentity: it is what openssl makes of the public key.
func TestIdentity(t *testing.T) {
	ecc, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []any{&rsaKey(t, "one").PublicKey, &ecc.PublicKey} {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(der)
		if got, err := identity(key); err != nil || !slices.Equal(got.Value, want[:]) {
			t.Errorf("%T: %v, %v, want %x", key, got, err, want)
		}
	}
}

func TestNewVerifierRefusesWeakPolicies(t *testing.T) {
	d := policyOf(t, boot("good"), [][]byte{newCA(t).der})
	if _, err := NewVerifier(nil, VerifierOptions{}); attestation.ReasonOf(err) != attestation.ReasonPolicy {
		t.Errorf("no policy: %v", err)
	}
	d.Technologies = nil
	if _, err := NewVerifier(d, VerifierOptions{}); attestation.ReasonOf(err) != attestation.ReasonTechnology {
		t.Errorf("another technology: %v", err)
	}
}

func TestNewIssuerRefusesNil(t *testing.T) {
	if i, err := NewIssuer(nil, IssuerOptions{}); err == nil || i != nil {
		t.Error("an issuer without a TPM")
	}
}

// FuzzVerify feeds payloads to a verifier; nothing but evidence of the seed's kind
// gets past the signature, so its parts are fuzzed on their own too.
func FuzzVerify(f *testing.F) {
	p, c := boot("good"), newCA(f)
	v := verifier(f, policyOf(f, p, [][]byte{c.der}))
	e, err := newFake(f, "one", c, p).Issue(f.Context(), attestation.Binding{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Parts[0].Payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		claims, err := v.Verify(t.Context(), attestation.NewEvidence(Technology, payload), attestation.Binding{2}, nil)
		if err == nil || claims != nil || attestation.ReasonOf(err) == attestation.ReasonInternal {
			t.Fatalf("claims %v, %v", claims, err)
		}
	})
}

func FuzzStructures(f *testing.F) {
	p := boot("good")
	fake := newFake(f, "one", newCA(f), p)
	e, err := fake.Issue(f.Context(), attestation.Binding{1})
	if err != nil {
		f.Fatal(err)
	}
	m, err := parsePayload(e)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{m.Quote, m.Signature, m.AttestationKey, m.EndorsementKey} {
		f.Add(seed)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := parseQuote(data); err == nil {
			q.check(attestation.Binding{1}, m.AttestationKey, m.Banks)
		}
		if checkSignature(&key.PublicKey, m.Quote, data) == nil {
			t.Fatal("a signature by nobody")
		}
		parseAttestationKey(data)
		parseEndorsementKey(data)
		parseChallenge(data)
	})
}

// TestZeroValues: what no constructor made neither accepts nor panics.
func TestZeroValues(t *testing.T) {
	p := boot("good")
	b := attestation.Binding{1}
	e, err := newFake(t, "one", newCA(t), p).Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]*Verifier{"zero": {}, "nil": nil} {
		if claims, err := v.Verify(t.Context(), e, b, nil); attestation.ReasonOf(err) != attestation.ReasonPolicy || claims != nil {
			t.Errorf("%s verifier: %v", name, err)
		}
		if claims, err := v.VerifyAnswered(e, b, nil, nil); attestation.ReasonOf(err) != attestation.ReasonPolicy || claims != nil {
			t.Errorf("%s verifier, answered: %v", name, err)
		}
	}
	i := &Issuer{}
	const want = "the issuer was not made by NewIssuer"
	if e, err := i.Issue(t.Context(), b); err == nil || !strings.Contains(err.Error(), want) || e != nil {
		t.Errorf("issue: %v", err)
	}
	question, _, err := NewChallenge(e, b)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := i.Respond(t.Context(), b, question); err == nil || !strings.Contains(err.Error(), want) || answer != nil {
		t.Errorf("respond: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
