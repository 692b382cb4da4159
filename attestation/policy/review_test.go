// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

var (
	reviewed = time.Date(2029, 12, 1, 0, 0, 0, 0, time.UTC) // a month before good's measurements expire
	month    = 32 * 24 * time.Hour
)

// weakAuthority has a key of 1024 bits and ends at the given date.
func weakAuthority(t testing.TB, from, to time.Time) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return authorityWith(t, key, from, to)
}

// curveAuthority has a key of a curve.
func curveAuthority(t testing.TB, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authorityWith(t, key, reviewed.AddDate(-1, 0, 0), reviewed.AddDate(9, 0, 0))
}

func authorityWith(t testing.TB, key crypto.Signer, from, to time.Time) string {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, IsCA: true, BasicConstraintsValid: true, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestReview(t *testing.T) {
	type found struct {
		Kind      Kind
		Where     string
		Registers []int
	}
	set := func(name string, pcrs value) value { return value{"name": name, "pcrs": pcrs} }
	sets := func(sets ...value) func(value) {
		return func(v value) { v["measurements"] = value{"version": 1, "accepted": sets} }
	}
	with := func(pcr string, values ...value) value {
		out := pcrs()
		out[pcr] = values
		return out
	}
	for _, tc := range []struct {
		name   string
		change func(value)
		soon   time.Duration
		want   []found
	}{
		{"a good one", func(value) {}, 0, nil},
		{"nothing at all", func(v value) { clear(v) }, 0, []found{
			{KindMissing, missingEndorsement, nil}, {KindMissing, "measurements", nil}, {KindMissing, "technologies", nil}, {KindMissing, "version", nil},
		}},
		{"registers of two images", sets(set("a", pcrs("4")), set("b", pcrs("11", "15")), set("c", pcrs())), 0, []found{
			{KindMissing, "measurements", []int{4}}, {KindMissing, "measurements", []int{11, 15}},
		}},
		{"wrong in several places", func(v value) {
			v["technologies"] = []string{"sevsnp", "tpm", "tpm"}
			v["endorsement"] = value{"authorities": []string{"x", authority(t, false)}, "inventory": []value{{}, {"kind": "chip-id"}}}
			v["tcb_floors"] = []value{{"technology": "tdx", "component": "c", "minimum": 1}}
		}, 0, slices.Repeat([]found{{KindInvalid, "document", nil}}, 7)},
		{"expiring", func(value) {}, month, []found{{KindExpiring, `image "image-1"`, nil}}},
		{"expired", sets(set("old", with("9", value{"sha256": digest32, "not_after": "2029-11-30T00:00:00Z"}))), 0, []found{{KindExpired, `image "old"`, nil}}},
		{"left over", sets(set("i", with("9", value{"sha256": digest32, "not_after": "2020-01-01T00:00:00Z"}, value{"sha256": digest32, "not_after": "2030-01-01T00:00:00Z"}))), 0,
			[]found{{KindExpired, `image "i"`, []int{9}}}},
		{"for ever", sets(set("i", with("9", value{"sha256": digest32}))), month, []found{{KindWeak, `image "i"`, []int{9}}, {KindExpiring, `image "i"`, nil}}},
		{"a kernel of nothing", sets(set("i", with("4", value{"sha256": strings.Repeat("00", 32), "not_after": "2030-01-01T00:00:00Z"}))), 0,
			[]found{{KindWeak, `image "i"`, []int{4}}}},
		{"no overrides", sets(set("i", with("12", value{"sha256": strings.Repeat("00", 32), "not_after": "2030-01-01T00:00:00Z"}))), 0, nil},
		{"an old authority", func(v value) {
			v["endorsement"] = value{"authorities": []string{weakAuthority(t, time.Unix(0, 0), reviewed.AddDate(0, 0, -1))}}
		}, 0, []found{{KindWeak, "authority CN=old", nil}, {KindExpired, "authority CN=old", nil}}},
		{"an authority of a small curve", func(v value) {
			v["endorsement"] = value{"authorities": []string{curveAuthority(t, elliptic.P224())}}
		}, 0, []found{{KindWeak, "authority CN=old", nil}}},
		{"an authority of the smallest curve that is accepted", func(v value) {
			v["endorsement"] = value{"authorities": []string{curveAuthority(t, elliptic.P256())}}
		}, 0, nil},
		{"an authority of the future", func(v value) {
			v["endorsement"] = value{"authorities": []string{weakAuthority(t, reviewed.AddDate(0, 0, 1), reviewed.AddDate(0, 0, 30))}}
		}, 0, []found{{KindInvalid, "authority CN=old", nil}, {KindWeak, "authority CN=old", nil}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := good(t)
			tc.change(v)
			data := encode(t, v)
			findings, err := Review(data, reviewed, tc.soon)
			if err != nil {
				t.Fatal(err)
			}
			var got []found
			loads := true
			for _, f := range findings {
				got = append(got, found{f.Kind, f.Where, f.Registers})
				loads = loads && f.Kind != KindMissing && (f.Kind != KindInvalid || f.Where != "document")
				if f.What == "" || f.Advice == "" {
					t.Errorf("nothing is said about %+v", f)
				}
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s\n%+v", diff, findings)
			}
			if _, err := Parse(data); (err == nil) != loads {
				t.Errorf("it loads: %v, and the findings say %t", err, loads)
			}
		})
	}
	for name, data := range map[string]string{"not JSON": "{", "another version": `{"version": 2}`, "unknown field": `{"more": 1}`} {
		if f, err := Review([]byte(data), reviewed, 0); err == nil || f != nil || attestation.ReasonOf(err) != attestation.ReasonPolicy {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

func TestUntil(t *testing.T) {
	at := func(days int) time.Time { return reviewed.AddDate(0, 0, days) }
	for name, tc := range map[string]struct {
		pcrs map[int][]accepted.Value
		want time.Time
	}{
		"the last value of the first register": {map[int][]accepted.Value{4: {{NotAfter: at(1)}, {NotAfter: at(3)}}, 9: {{NotAfter: at(2)}}}, at(2)},
		"one for ever":                         {map[int][]accepted.Value{4: {{NotAfter: at(1)}, {}}, 9: {{NotAfter: at(5)}}}, at(5)},
		"all for ever":                         {map[int][]accepted.Value{4: {{}}}, time.Time{}},
	} {
		if got := Until(&accepted.Set{PCRs: tc.pcrs}); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestDraft(t *testing.T) {
	d, err := Parse(encode(t, good(t)))
	if err != nil {
		t.Fatal(err)
	}
	draft := Draft{Measurements: d.Measurements.Accepted, Authorities: d.Authorities, Inventory: d.Inventory()}
	data, err := draft.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	ignore := cmpopts.IgnoreFields(Document{}, "Digest", "Floors")
	if diff := cmp.Diff(d, again, cmp.AllowUnexported(Document{}), ignore); diff != "" {
		t.Error(diff)
	}
	if want := (Entry{attestation.Identity{Kind: attestation.EndorsementKey, Value: measurements.Digest(slices.Repeat([]byte{0xab}, 32))}, attestation.Grant{Name: "node-1", Role: "control-plane"}}); cmp.Diff([]Entry{want}, draft.Inventory) != "" {
		t.Errorf("inventory %+v", draft.Inventory)
	}
	draft.Authorities, draft.Inventory = nil, nil
	if data, err := draft.Marshal(); attestation.ReasonOf(err) != attestation.ReasonPolicy || data != nil {
		t.Errorf("a policy without endorsement: %v", err)
	}
}
