// SPDX-License-Identifier: Apache-2.0

package attestation_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// field encodes one length-delimited field.
func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

// varint encodes one integer field.
func varint(number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), value)
}

func TestEvidenceRoundTrip(t *testing.T) {
	want := &attestation.Evidence{Parts: []attestation.Part{{Technology: "sevsnp", Payload: []byte{1}}, {Technology: "tpm", Payload: []byte{2, 3}}}}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := attestation.ParseEvidence(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Technology() != "sevsnp+tpm" {
		t.Errorf("technology is %q", got.Technology())
	}
	// The encoding, by hand: it is what other implementations read.
	byHand := slices.Concat(varint(1, 1),
		field(2, slices.Concat(field(1, []byte("sevsnp")), field(2, []byte{1}))),
		field(2, slices.Concat(field(1, []byte("tpm")), field(2, []byte{2, 3}))))
	if !bytes.Equal(data, byHand) {
		t.Errorf("encoded as %x, want %x", data, byHand)
	}
}

func TestParseEvidenceRefuses(t *testing.T) {
	part := slices.Concat(field(1, []byte("tpm")), field(2, []byte{1}))
	version := varint(1, 1)
	for _, tc := range []struct {
		name string
		data []byte
		want attestation.Reason
	}{
		{"nothing", nil, attestation.ReasonVersion},
		{"version 2", slices.Concat(varint(1, 2), field(2, part)), attestation.ReasonVersion},
		{"version twice", slices.Concat(version, version, field(2, part)), attestation.ReasonMalformed},
		{"version as bytes", slices.Concat(field(1, []byte{1}), field(2, part)), attestation.ReasonMalformed},
		{"no parts", version, attestation.ReasonMalformed},
		{"five parts", slices.Concat(version, bytes.Repeat(field(2, part), 5)), attestation.ReasonTooLarge},
		{"unknown field", slices.Concat(version, field(2, part), field(3, nil)), attestation.ReasonMalformed},
		{"unknown field in a part", slices.Concat(version, field(2, slices.Concat(part, field(3, nil)))), attestation.ReasonMalformed},
		{"field number 5000", slices.Concat(version, field(2, part), field(5000, nil)), attestation.ReasonMalformed},
		{"group", slices.Concat(version, protowire.AppendTag(nil, 2, protowire.StartGroupType)), attestation.ReasonMalformed},
		{"empty payload", slices.Concat(version, field(2, field(1, []byte("tpm")))), attestation.ReasonMalformed},
		{"joined name in one part", slices.Concat(version, field(2, slices.Concat(field(1, []byte("a+b")), field(2, []byte{1})))), attestation.ReasonMalformed},
		{"upper case name", slices.Concat(version, field(2, slices.Concat(field(1, []byte("TPM")), field(2, []byte{1})))), attestation.ReasonMalformed},
		{"name of 33 bytes", slices.Concat(version, field(2, slices.Concat(field(1, bytes.Repeat([]byte("a"), 33)), field(2, []byte{1})))), attestation.ReasonMalformed},
		{"cut short", slices.Concat(version, field(2, part))[:7], attestation.ReasonMalformed},
		{"too long", make([]byte, attestation.MaxEvidenceSize+1), attestation.ReasonTooLarge},
		{"a bomb of empty parts", slices.Concat(version, bytes.Repeat(field(2, nil), 100_000)), attestation.ReasonTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := attestation.ParseEvidence(tc.data)
			if err == nil || attestation.ReasonOf(err) != tc.want {
				t.Errorf("got %v, want a refusal with %v", err, tc.want)
			}
		})
	}
}

// TestBombIsNotDecoded: 250 KiB of empty parts would take 8 MiB once decoded. (V12)
func TestBombIsNotDecoded(t *testing.T) {
	bomb := bytes.Repeat(field(2, nil), 125_000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	attestation.ParseEvidence(bomb)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<10 {
		t.Errorf("%d bytes were allocated", used)
	}
}

func TestMarshalRefusesWhatParseWould(t *testing.T) {
	for name, e := range map[string]*attestation.Evidence{
		"no parts":      {},
		"empty payload": attestation.NewEvidence("tpm", nil),
		"bad name":      attestation.NewEvidence("t p m", []byte{1}),
		"too large":     attestation.NewEvidence("tpm", make([]byte, attestation.MaxEvidenceSize)),
	} {
		if data, err := e.Marshal(); err == nil {
			t.Errorf("%s: encoded as %d bytes", name, len(data))
		}
	}
}

func TestReasonOf(t *testing.T) {
	wrapped := attestation.Refuse(attestation.ReasonBinding, "outer: %w", context.Canceled)
	if got := attestation.ReasonOf(wrapped); got != attestation.ReasonBinding {
		t.Errorf("reason %v", got)
	}
	if !errors.Is(wrapped, context.Canceled) {
		t.Error("the cause is lost")
	}
	if got := attestation.ReasonOf(context.Canceled); got != attestation.ReasonInternal {
		t.Errorf("an error without a reason has %v", got)
	}
	if attestation.ReasonOf(nil) != 0 {
		t.Error("nil has a reason")
	}
}

func TestKeyBinding(t *testing.T) {
	got := attestation.KeyBinding([]byte("key"))
	want := sha512.Sum512([]byte("constellation attestation key v1\x00\x00\x00\x03key"))
	if got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestPropertiesNameWhatIsMissing(t *testing.T) {
	got, err := json.Marshal(attestation.Properties{attestation.PropertyEndorsed, attestation.PropertyFresh})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"proven":["fresh","device-endorsed"],"not_proven":["measured-boot","key-resident","confidential"]}`
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// composite makes a platform device that vouches for an inner one.
func composite(t *testing.T) (platform, inner *attestationtest.Device, issuer *attestation.CompositeIssuer, verifier *attestation.Composite) {
	t.Helper()
	platform, inner = attestationtest.NewDevice("firmware"), attestationtest.NewDevice("os")
	platform.Name = "cpu"
	report, err := platform.Issue(t.Context(), attestation.KeyBinding(inner.Public()))
	if err != nil {
		t.Fatal(err)
	}
	if issuer, err = attestation.NewCompositeIssuer(report, inner); err != nil {
		t.Fatal(err)
	}
	outer := attestationtest.Accept(platform)
	outer.Name = "cpu"
	if verifier, err = attestation.NewComposite(outer, attestationtest.Accept(inner)); err != nil {
		t.Fatal(err)
	}
	return platform, inner, issuer, verifier
}

func TestCompositeConstructorsRefuseNil(t *testing.T) {
	d := attestationtest.NewDevice("x")
	p, none := attestationtest.Accept(d), (*attestationtest.Policy)(nil)
	for name, verifiers := range map[string][2]attestation.Verifier{
		"no platform": {nil, p}, "no inner": {p, nil}, "nil pointer as platform": {none, p}, "nil pointer as inner": {p, none},
	} {
		if c, err := attestation.NewComposite(verifiers[0], verifiers[1]); err == nil || !strings.Contains(err.Error(), "needs two verifiers") || c != nil {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	report, err := d.Issue(t.Context(), attestation.Binding{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		platform *attestation.Evidence
		inner    attestation.Issuer
	}{
		"no evidence": {nil, d}, "evidence without a part": {&attestation.Evidence{}, d}, "no issuer": {report, nil},
		"nil pointer as issuer": {report, (*attestationtest.Device)(nil)},
	} {
		if c, err := attestation.NewCompositeIssuer(tc.platform, tc.inner); err == nil || !strings.Contains(err.Error(), "needs evidence of one part and an issuer") || c != nil {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

func TestCompositeAccepts(t *testing.T) {
	_, _, issuer, verifier := composite(t)
	b := attestation.Binding{7}
	e, err := issuer.Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := verifier.Verify(t.Context(), e, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Technology != "cpu+test" || len(claims.Identities) != 2 || claims.Image != "os" {
		t.Errorf("claims are %+v", claims)
	}
}

func TestCompositeRefuses(t *testing.T) {
	platform, _, issuer, verifier := composite(t)
	stranger := attestationtest.NewDevice("os")
	b := attestation.Binding{7}
	good, err := issuer.Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(d *attestationtest.Device, b attestation.Binding) attestation.Part {
		e, err := d.Issue(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return e.Parts[0]
	}
	for _, tc := range []struct {
		name  string
		parts []attestation.Part
		want  attestation.Reason
	}{
		{"the report is for another key", []attestation.Part{issue(platform, attestation.KeyBinding(stranger.Public())), good.Parts[1]}, attestation.ReasonBinding},
		{"the report is for the channel", []attestation.Part{issue(platform, b), good.Parts[1]}, attestation.ReasonBinding},
		{"the inner part is stale", []attestation.Part{good.Parts[0], issue(stranger, attestation.Binding{8})}, attestation.ReasonBinding},
		{"the inner device is unknown", []attestation.Part{good.Parts[0], issue(stranger, b)}, attestation.ReasonIdentity},
		{"no platform", good.Parts[1:], attestation.ReasonTechnology},
		{"no inner part", good.Parts[:1], attestation.ReasonTechnology},
		{"other order", []attestation.Part{good.Parts[1], good.Parts[0]}, attestation.ReasonTechnology},
		{"a part more", append(slices.Clone(good.Parts), good.Parts[1]), attestation.ReasonTechnology},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := verifier.Verify(t.Context(), &attestation.Evidence{Parts: tc.parts}, b, nil)
			if err == nil || attestation.ReasonOf(err) != tc.want || claims != nil {
				t.Errorf("got %v, want a refusal with %v", err, tc.want)
			}
		})
	}
}

// claiming changes what a verifier returns.
type claiming struct {
	attestation.Verifier
	change func(*attestation.Claims)
}

func (c claiming) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	claims, err := c.Verifier.Verify(ctx, e, b, ask)
	if err == nil {
		c.change(claims)
	}
	return claims, err
}

// joined judges evidence whose platform's part is made over KeyBinding of key, with an
// inner verifier whose claims are changed.
func joined(t *testing.T, key func(inner *attestationtest.Device) []byte, change func(*attestation.Claims)) (*attestation.Claims, error) {
	t.Helper()
	platform, inner := attestationtest.NewDevice("firmware"), attestationtest.NewDevice("os")
	report, err := platform.Issue(t.Context(), attestation.KeyBinding(key(inner)))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := attestation.NewCompositeIssuer(report, inner)
	if err != nil {
		t.Fatal(err)
	}
	v, err := attestation.NewComposite(attestationtest.Accept(platform), claiming{attestationtest.Accept(inner), change})
	if err != nil {
		t.Fatal(err)
	}
	e, err := issuer.Issue(t.Context(), attestation.Binding{7})
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(t.Context(), e, attestation.Binding{7}, nil)
}

// TestCompositeNeedsAKey: a report that vouches for no key vouches for nothing.
func TestCompositeNeedsAKey(t *testing.T) {
	claims, err := joined(t, func(*attestationtest.Device) []byte { return nil }, func(c *attestation.Claims) { c.Key = nil })
	if attestation.ReasonOf(err) != attestation.ReasonInternal || err == nil || claims != nil {
		t.Errorf("got %+v, %v", claims, err)
	}
}

// TestCompositeProperties: the platform's report is neither fresh nor of the whole boot,
// so it proves neither for the inner part.
func TestCompositeProperties(t *testing.T) {
	claims, err := joined(t, (*attestationtest.Device).Public, func(c *attestation.Claims) {
		c.Properties = attestation.Properties{attestation.PropertyResident}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := attestation.Properties{attestation.PropertyResident, attestation.PropertyEndorsed}
	if diff := cmp.Diff(want, claims.Properties); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseEvidence(f *testing.F) {
	good, err := attestation.NewEvidence("tpm", []byte("payload")).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:5])
	f.Add(slices.Concat(varint(1, 1), field(2, field(2, field(2, field(2, field(2, nil)))))))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := attestation.ParseEvidence(data)
		if err != nil {
			if r := attestation.ReasonOf(err); r == attestation.ReasonInternal {
				t.Fatalf("a refusal without a reason: %v", err)
			}
			return
		}
		if again, err := e.Marshal(); err != nil || len(again) > len(data)+16 {
			t.Fatalf("accepted, but encodes to %d bytes: %v", len(again), err)
		}
	})
}

// TestZeroComposite: a verifier that nobody made refuses, and does not crash.
func TestZeroComposite(t *testing.T) {
	var c attestation.Composite
	_, err := c.Verify(t.Context(), &attestation.Evidence{}, attestation.Binding{}, nil)
	if got := attestation.ReasonOf(err); got != attestation.ReasonTechnology {
		t.Errorf("refused with %v", err)
	}
}
