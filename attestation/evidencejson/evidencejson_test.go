// SPDX-License-Identifier: Apache-2.0

package evidencejson

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
)

// payload is nobody's evidence: only its form matters here.
func payload(t testing.TB, m *api.TPM) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sample(t testing.TB) *attestation.Evidence {
	return attestation.NewEvidence("tpm", payload(t, &api.TPM{
		Version: 1, AttestationKey: []byte{0xff, 1}, EndorsementKey: []byte{2}, EndorsementCertificates: [][]byte{{3}, {4}},
		Quote: []byte{5}, Signature: []byte{6}, Banks: []*api.Bank{{Algorithm: 11, Values: []byte{7}}, {Algorithm: 12, Values: []byte{8}}}, EventLog: []byte{9},
	}))
}

const written = `{
  "version": 1,
  "parts": [
    {
      "technology": "tpm",
      "payload": {
        "version": 1,
        "attestation_key": "/wE=",
        "endorsement_key": "Ag==",
        "endorsement_certificates": [
          "Aw==",
          "BA=="
        ],
        "quote": "BQ==",
        "signature": "Bg==",
        "banks": [
          {
            "algorithm": 11,
            "values": "Bw=="
          },
          {
            "algorithm": 12,
            "values": "CA=="
          }
        ],
        "event_log": "CQ=="
      }
    }
  ]
}
`

func TestRoundTrip(t *testing.T) {
	data, err := Marshal(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(written, string(data)); diff != "" {
		t.Error(diff)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(t), got); diff != "" {
		t.Error(diff)
	}
}

func TestMarshalRefuses(t *testing.T) {
	if _, err := Marshal(attestation.NewEvidence("other", []byte{1})); attestation.ReasonOf(err) != attestation.ReasonTechnology {
		t.Errorf("another technology: %v", err)
	}
	large := payload(t, &api.TPM{EventLog: make([]byte, attestation.MaxEvidenceSize-8)})
	if _, err := Marshal(attestation.NewEvidence("tpm", large)); attestation.ReasonOf(err) != attestation.ReasonTooLarge {
		t.Errorf("%d bytes of payload: %v", len(large), err)
	}
	if _, err := Marshal(attestation.NewEvidence("tpm", []byte{0xff})); attestation.ReasonOf(err) != attestation.ReasonMalformed {
		t.Errorf("no message: %v", err)
	}
}

// TestParseRefuses (V12): each is the good file but for one thing.
func TestParseRefuses(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(written, old) {
			t.Fatalf("%q is not in the file", old)
		}
		return strings.Replace(written, old, new, 1)
	}
	for name, tc := range map[string]struct {
		text string
		want attestation.Reason
	}{
		"empty":                 {"", attestation.ReasonMalformed},
		"cut short":             {written[:len(written)/2], attestation.ReasonMalformed},
		"followed":              {written + "{}", attestation.ReasonMalformed},
		"an array":              {"[]", attestation.ReasonMalformed},
		"no version":            {replace(`"version": 1,`, ""), attestation.ReasonVersion},
		"a version of 600 KB":   {replace(`"version": 1,`, `"version": `+strings.Repeat("9", 600<<10)+`,`), attestation.ReasonMalformed},
		"another version":       {replace(`"version": 1,`, `"version": 2,`), attestation.ReasonVersion},
		"an unknown field":      {replace(`"parts"`, `"more": 1, "parts"`), attestation.ReasonMalformed},
		"an unknown field deep": {replace(`"algorithm"`, `"more": 1, "algorithm"`), attestation.ReasonMalformed},
		"a version twice":       {replace(`"version": 1,`, `"version": 1, "version": 1,`), attestation.ReasonMalformed},
		"a field twice":         {replace(`"quote"`, `"quote": "", "quote"`), attestation.ReasonMalformed},
		"another technology":    {replace(`"tpm"`, `"sevsnp"`), attestation.ReasonTechnology},
		"no parts":              {`{"version": 1, "parts": []}`, attestation.ReasonMalformed},
		"five parts":            {`{"version": 1, "parts": [{}, {}, {}, {}, {}]}`, attestation.ReasonTooLarge},
		"no payload":            {`{"version": 1, "parts": [{"technology": "tpm"}]}`, attestation.ReasonMalformed},
		"an empty payload":      {`{"version": 1, "parts": [{"technology": "tpm", "payload": {}}]}`, attestation.ReasonMalformed},
		"not base64":            {replace("/wE=", "/wE!"), attestation.ReasonMalformed},
		"a number as bytes":     {replace(`"BQ=="`, "5"), attestation.ReasonMalformed},
		"too large a file":      {written + strings.Repeat(" ", MaxSize), attestation.ReasonTooLarge},
		"too large evidence": {replace("CQ==", base64.StdEncoding.EncodeToString(make([]byte, attestation.MaxEvidenceSize))),
			attestation.ReasonTooLarge},
		"deeply nested": {`{"version": 1, "parts": [{"technology": "tpm", "payload": ` + strings.Repeat(`{"banks":[`, 1000) + strings.Repeat("]}", 1000) + `}]}`,
			attestation.ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Parse([]byte(tc.text))
			if attestation.ReasonOf(err) != tc.want || e != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte(`{"version":1,"parts":[{"technology":"tpm","payload":{"version":1}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if (e == nil) != (err != nil) || (err != nil && attestation.ReasonOf(err) == attestation.ReasonInternal) {
			t.Fatalf("got %v, %v", e, err)
		}
		if err != nil {
			return
		}
		again, err := Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Parse(again); err != nil || cmp.Diff(e, f) != "" {
			t.Fatalf("%v is not what was written: %v", f, err)
		}
	})
}
