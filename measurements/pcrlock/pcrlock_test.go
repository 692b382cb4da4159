// SPDX-License-Identifier: Apache-2.0

package pcrlock_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/pcrlock"
)

// The structure is what systemd's parser reads (src/pcrlock/pcrlock.c,
// event_log_record_parse_json): records with a PCR and a list of digests.
func TestEncode(t *testing.T) {
	event := func(pcr int, data string) measurements.Event {
		return measurements.Event{PCR: pcr, Digests: measurements.Sum([]byte(data))}
	}
	p := &measurements.Prediction{
		Events:      []measurements.Event{event(4, "a"), event(1, "incomplete"), event(11, "b"), event(10, "kernel"), event(4, "c")},
		Unpredicted: []measurements.Unpredicted{{PCR: 1, Event: "ACPI"}},
	}
	p.PCRs = p.Replay()
	data, err := pcrlock.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Records []struct {
			PCR     int                 `json:"pcr"`
			Digests []map[string]string `json:"digests"`
		} `json:"records"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		pcr  int
		data string
	}{{4, "a"}, {11, "b"}, {4, "c"}}
	if len(got.Records) != len(want) {
		t.Fatalf("%d records, want %d", len(got.Records), len(want))
	}
	for i, w := range want {
		d := measurements.Sum([]byte(w.data))
		digests := []map[string]string{
			{"hashAlg": "sha256", "digest": d[measurements.SHA256].String()},
			{"hashAlg": "sha384", "digest": d[measurements.SHA384].String()},
		}
		if diff := cmp.Diff(digests, got.Records[i].Digests); got.Records[i].PCR != w.pcr || diff != "" {
			t.Errorf("record %d: PCR %d, want %d; digests (-want +got): %s", i, got.Records[i].PCR, w.pcr, diff)
		}
	}
	if _, err := pcrlock.Encode(&measurements.Prediction{}); err == nil {
		t.Error("an empty prediction was exported")
	}
}
