// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
)

var digest32 = strings.Repeat("ab", 32)

// value builds JSON without types: what a test leaves out is really left out.
type value = map[string]any

func authority(t testing.TB, ca bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func pcrs(skip ...string) value {
	out := value{}
	for _, pcr := range []string{"4", "9", "11", "12", "13", "15"} {
		if !slices.Contains(skip, pcr) {
			out[pcr] = []value{{"sha256": digest32, "not_after": "2030-01-01T00:00:00Z"}}
		}
	}
	return out
}

// good is a policy that Parse accepts.
func good(t testing.TB) value {
	return value{
		"version":      1,
		"technologies": []string{"tpm"},
		"measurements": value{"version": 1, "accepted": []value{{"name": "image-1", "pcrs": pcrs()}}},
		"endorsement": value{
			"authorities": []string{authority(t, true)},
			"inventory":   []value{{"kind": "endorsement-key-sha256", "identity": digest32, "name": "node-1", "role": "control-plane"}},
		},
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse(t *testing.T) {
	d, err := Parse(encode(t, good(t)))
	if err != nil {
		t.Fatal(err)
	}
	id := attestation.Identity{Kind: attestation.EndorsementKey, Value: bytes.Repeat([]byte{0xab}, 32)}
	if diff := cmp.Diff(&attestation.Grant{Name: "node-1", Role: "control-plane"}, d.Granted(id)); diff != "" {
		t.Error(diff)
	}
	for _, other := range []attestation.Identity{{Kind: attestation.ChipID, Value: id.Value}, {Kind: id.Kind, Value: id.Value[1:]}} {
		if g := d.Granted(other); g != nil {
			t.Errorf("%v is granted %v", other, g)
		}
	}
	if !d.Allows("tpm") || d.Allows("sevsnp") || len(d.Authorities) != 1 || len(d.Digest) != 32 {
		t.Errorf("parsed as %+v", d)
	}
}

func TestFirstCome(t *testing.T) {
	v := good(t)
	if d, err := Parse(encode(t, v)); err != nil || d.FirstComeWorkers {
		t.Errorf("left out, it allows them: %v", err)
	}
	v["first_come"] = []string{"worker"}
	d, err := Parse(encode(t, v))
	if err != nil || !d.FirstComeWorkers {
		t.Fatalf("not allowed: %v", err)
	}
	if !d.Reserved("node-1") || d.Reserved("node-2") {
		t.Error("the names of the inventory are not reserved, or others are")
	}
}

// TestParseNamesWhatIsMissing (V21).
func TestParseNamesWhatIsMissing(t *testing.T) {
	endorsement := "endorsement.authorities or endorsement.inventory"
	for _, tc := range []struct {
		name      string
		change    func(value)
		missing   []string
		registers []int
	}{
		{"everything", func(v value) { clear(v) }, []string{endorsement, "measurements", "technologies", "version"}, nil},
		{"version", func(v value) { delete(v, "version") }, []string{"version"}, nil},
		{"no technology", func(v value) { v["technologies"] = []string{} }, []string{"technologies"}, nil},
		{"null measurements", func(v value) { v["measurements"] = nil }, []string{"measurements"}, nil},
		{"no endorsement", func(v value) { delete(v, "endorsement") }, []string{endorsement}, nil},
		{"empty endorsement", func(v value) { v["endorsement"] = value{"authorities": []string{}} }, []string{endorsement}, nil},
		{"zero measurements", func(v value) { v["measurements"] = value{"version": 1, "accepted": []value{}} }, nil, []int{4, 9, 11, 12, 13, 15}},
		{"an empty set", func(v value) {
			v["measurements"] = value{"version": 1, "accepted": []value{{"name": "x", "pcrs": value{}}}}
		}, nil, []int{4, 9, 11, 12, 13, 15}},
		{"a weakened set", func(v value) {
			v["measurements"] = value{"version": 1, "accepted": []value{{"name": "x", "pcrs": pcrs("11", "15")}}}
		}, nil, []int{11, 15}},
		{"a weakened second set", func(v value) {
			v["measurements"] = value{"version": 1, "accepted": []value{{"name": "x", "pcrs": pcrs()}, {"name": "y", "pcrs": pcrs("4")}}}
		}, nil, []int{4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := good(t)
			tc.change(v)
			d, err := Parse(encode(t, v))
			var e *Error
			if !errors.As(err, &e) || d != nil {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tc.missing, e.Missing); diff != "" {
				t.Errorf("missing: %s", diff)
			}
			if diff := cmp.Diff(tc.registers, e.Registers); diff != "" {
				t.Errorf("registers: %s", diff)
			}
			if r := attestation.ReasonOf(err); r != attestation.ReasonPolicy {
				t.Errorf("reason %v", r)
			}
			for _, name := range tc.missing {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%q does not name %s", err, name)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	inventory := func(entries ...value) func(value) {
		return func(v value) { v["endorsement"] = value{"inventory": entries} }
	}
	entry := func(change func(value)) value {
		e := value{"kind": "endorsement-key-sha256", "identity": digest32, "name": "node-1", "role": "worker"}
		change(e)
		return e
	}
	for _, tc := range []struct {
		name   string
		change func(value)
		want   string
	}{
		{"version 2", func(v value) { v["version"] = 2 }, "version 2"},
		{"unknown field", func(v value) { v["technologeis"] = []string{} }, "unknown field"},
		{"unknown technology", func(v value) { v["technologies"] = []string{"tpm", "sevsnp"} }, `"sevsnp" is not known`},
		{"the test technology", func(v value) { v["technologies"] = []string{"test"} }, `"test" is not known`},
		{"technology twice", func(v value) { v["technologies"] = []string{"tpm", "tpm"} }, "twice"},
		{"authority that is none", func(v value) { v["endorsement"] = value{"authorities": []string{authority(t, false)}} }, "not a certificate authority"},
		{"authority that is text", func(v value) { v["endorsement"] = value{"authorities": []string{"x"}} }, "PEM"},
		{"two authorities in one", func(v value) {
			v["endorsement"] = value{"authorities": []string{authority(t, true) + authority(t, true)}}
		}, "one certificate"},
		{"short identity", inventory(entry(func(e value) { e["identity"] = "abcd" })), "SHA-256"},
		{"upper-case identity", inventory(entry(func(e value) { e["identity"] = strings.ToUpper(digest32) })), "lower-case"},
		{"chip", inventory(entry(func(e value) { e["kind"] = "chip-id" })), "endorsement-key-sha256"},
		{"no name", inventory(entry(func(e value) { delete(e, "name") })), "name"},
		{"name with dots", inventory(entry(func(e value) { e["name"] = "a.b" })), "name"},
		{"unknown role", inventory(entry(func(e value) { e["role"] = "admin" })), `"admin" is neither`},
		{"identity twice", inventory(entry(func(value) {}), entry(func(e value) { e["name"] = "node-2" })), "twice"},
		{"name twice", inventory(entry(func(value) {}), entry(func(e value) { e["identity"] = strings.Repeat("cd", 32) })), "twice"},
		{"first come, an unknown role", func(v value) { v["first_come"] = []string{"admin"} }, "other roles are for devices of the inventory"},
		{"first come as control plane", func(v value) { v["first_come"] = []string{"worker", "control-plane"} }, "other roles are for devices of the inventory"},
		{"first come as nothing", func(v value) { v["first_come"] = []string{} }, "first_come []"},
		{"first come without authorities", func(v value) {
			v["first_come"] = []string{"worker"}
			delete(v["endorsement"].(value), "authorities")
		}, "nobody vouches"},
		{"floor of a technology that is not allowed", func(v value) {
			v["tcb_floors"] = []value{{"technology": "sevsnp", "component": "microcode", "minimum": 1}}
		}, "not allowed"},
		{"floor that nothing is compared with", func(v value) {
			v["tcb_floors"] = []value{{"technology": "tpm", "component": "firmware", "minimum": 1}}
		}, "no security versions"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := good(t)
			tc.change(v)
			d, err := Parse(encode(t, v))
			if err == nil || d != nil || !strings.Contains(err.Error(), tc.want) || attestation.ReasonOf(err) != attestation.ReasonPolicy {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestParseRefusesText(t *testing.T) {
	text := string(encode(t, good(t)))
	for name, data := range map[string]string{
		"nothing":             "",
		"cut short":           text[:len(text)-1],
		"text after it":       text + "{}",
		"a key twice":         strings.Replace(text, `"version":1`, `"version":1,"version":1`, 1),
		"in another case":     strings.Replace(text, `"technologies"`, `"Technologies":["x"],"technologies"`, 1),
		"deep":                strings.Repeat("[", 100_000),
		"too large":           text + strings.Repeat(" ", MaxSize),
		"another kind":        `"policy"`,
		"a bracket too many":  text + "]",
		"null":                "null",
		"duplicate, deeper":   strings.Replace(text, `"name":"node-1"`, `"name":"node-1","name":"node-2"`, 1),
		"number for a string": strings.Replace(text, `"node-1"`, `1`, 1),
	} {
		if d, err := Parse([]byte(data)); err == nil || d != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCheckPCRs(t *testing.T) {
	d, err := Parse(encode(t, good(t)))
	if err != nil {
		t.Fatal(err)
	}
	values := func() measurements.Banks {
		bank := measurements.PCRs{}
		for pcr := range measurements.PCRCount {
			bank[pcr] = bytes.Repeat([]byte{0xab}, 32)
		}
		return measurements.Banks{measurements.SHA256: bank}
	}
	other, short := values(), values()
	other[measurements.SHA256][11] = make([]byte, 32)
	delete(short[measurements.SHA256], 13)
	for _, tc := range []struct {
		name string
		pcrs measurements.Banks
		now  string
		want attestation.Reason
	}{
		{"accepted", values(), "2029-12-31T00:00:00Z", 0},
		{"expired", values(), "2030-01-02T00:00:00Z", attestation.ReasonExpired},
		{"another kernel", other, "2029-12-31T00:00:00Z", attestation.ReasonMeasurements},
		{"a register less", short, "2029-12-31T00:00:00Z", attestation.ReasonSelection},
		{"no registers", nil, "2029-12-31T00:00:00Z", attestation.ReasonSelection},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now, err := time.Parse(time.RFC3339, tc.now)
			if err != nil {
				t.Fatal(err)
			}
			name, err := d.CheckPCRs(tc.pcrs, now)
			if attestation.ReasonOf(err) != tc.want || (name == "image-1") != (tc.want == 0) {
				t.Errorf("got %q, %v, want %v", name, err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(encode(f, good(f)))
	f.Add([]byte(`{"version":1,"technologies":["tpm"],"measurements":{},"endorsement":{"inventory":[{}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if (d == nil) == (err == nil) {
			t.Fatal("neither a policy nor an error, or both")
		}
		if err != nil && attestation.ReasonOf(err) != attestation.ReasonPolicy {
			t.Fatalf("a refusal without its reason: %v", err)
		}
		if err == nil && (len(d.Technologies) == 0 || len(d.Measurements.Accepted) == 0 || len(d.Authorities)+len(d.inventory) == 0) {
			t.Fatal("a policy that says too little")
		}
	})
}

// TestPageExample: the policy that docs/attestation.md shows has the form of one. It
// names two registers, and leaves the other mandatory ones out.
func TestPageExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, found := strings.Cut(string(page), "```json\n")
	example, _, closed := strings.Cut(example, "```")
	if !found || !closed {
		t.Fatal("the page has no example")
	}
	certificate, err := json.Marshal(authority(t, true))
	if err != nil {
		t.Fatal(err)
	}
	data := strings.NewReplacer(
		`"-----BEGIN CERTIFICATE-----\n…"`, string(certificate),
		`"sha384": "…"`, `"sha384": "`+strings.Repeat("ab", 48)+`"`,
		`"…"`, `"`+strings.Repeat("ab", 32)+`"`,
	).Replace(example)
	findings, err := Review([]byte(data), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Kind != KindMissing || !slices.Equal(f.Registers, []int{11, 12, 13, 15}) {
			t.Errorf("%+v", f)
		}
	}
	if len(findings) != 1 {
		t.Errorf("%d findings, want one for the other registers", len(findings))
	}
}
