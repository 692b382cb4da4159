// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
)

// What the TPM reports, or does not, beside the log.
func TestCompareValues(t *testing.T) {
	other := measurements.Sum([]byte("x"))
	tests := map[string]struct {
		change func(o *measurements.Observed)
		match  bool
		want   []brief
	}{
		"no SHA-384 bank": {func(o *measurements.Observed) { delete(o.PCRs, measurements.SHA384) }, true,
			[]brief{{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha384 bank", false}}},
		"no SHA-256 bank": {func(o *measurements.Observed) { delete(o.PCRs, measurements.SHA256) }, false,
			[]brief{{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha256 bank", true}}},
		"no bank and no log": {func(o *measurements.Observed) { o.PCRs, o.EventLog = nil, nil }, false,
			[]brief{
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha256 bank", true},
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha384 bank", false},
				{measurements.NoPCR, measurements.ReasonNoLog, measurements.ComponentFirmware, "event log", false},
			}},
		"no bank, but a log": {func(o *measurements.Observed) { o.PCRs = nil }, false,
			[]brief{
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha256 bank", true},
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, "sha384 bank", false},
			}},
		"no event log": {func(o *measurements.Observed) { o.EventLog = nil }, true,
			[]brief{{measurements.NoPCR, measurements.ReasonNoLog, measurements.ComponentFirmware, "event log", false}}},
		"no event log and another value": {func(o *measurements.Observed) {
			o.EventLog = nil
			o.PCRs[measurements.SHA256][11] = other[measurements.SHA256]
		}, false, []brief{
			{measurements.NoPCR, measurements.ReasonNoLog, measurements.ComponentFirmware, "event log", false},
			{11, measurements.ReasonValue, measurements.ComponentUKI, "value of PCR 11", true},
		}},
		"PCR not reported": {func(o *measurements.Observed) { delete(o.PCRs[measurements.SHA256], 12) }, false,
			[]brief{{12, measurements.ReasonMissingPCR, measurements.ComponentMachine, "value of PCR 12", true}}},
		"PCR not reported in one bank": {func(o *measurements.Observed) { delete(o.PCRs[measurements.SHA384], 4) }, false,
			[]brief{{4, measurements.ReasonMissingPCR, measurements.ComponentMachine, "value of PCR 4", true}}},
		"extended at run time": {func(o *measurements.Observed) {
			for a, pcrs := range o.PCRs {
				pcrs[11] = a.Extend(pcrs[11], other[a])
			}
		}, false, []brief{{11, measurements.ReasonLogDoesNotReplay, measurements.ComponentUKI, "event log of PCR 11", true}}},
		"initialised for a cluster": {func(o *measurements.Observed) {
			for a, pcrs := range o.PCRs {
				pcrs[15] = a.Extend(pcrs[15], other[a])
			}
		}, false, []brief{{15, measurements.ReasonValue, measurements.ComponentCluster, "value of PCR 15", true}}},
		"other IMA list": {func(o *measurements.Observed) { o.PCRs[measurements.SHA256][10] = other[measurements.SHA256] }, true,
			[]brief{{10, measurements.ReasonValue, measurements.ComponentIMA, "value of PCR 10", false}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := prediction(t)
			o := artifacttest.Observed(p, artifacttest.EventsOf(p))
			test.change(o)
			c, err := measurements.Compare(p, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, briefs(c)); c.Match != test.match || diff != "" {
				t.Errorf("match: %v, want %v; findings (-want +got): %s", c.Match, test.match, diff)
			}
			for _, r := range c.PCRs {
				_, reported := o.PCRs[measurements.SHA256][r.PCR]
				_, other := o.PCRs[measurements.SHA384][r.PCR]
				if r.Status == measurements.StatusMatch && !reported && !other {
					t.Errorf("PCR %d matches without a value", r.PCR)
				}
			}
		})
	}
}

// What is said of a bank or of the log as a whole names no PCR.
func TestFindingsOfNoPCR(t *testing.T) {
	p := prediction(t)
	o := artifacttest.Observed(p, artifacttest.EventsOf(p))
	o.EventLog = nil
	delete(o.PCRs, measurements.SHA384)
	o.PCRs[measurements.SHA256][0] = measurements.Sum([]byte("x"))[measurements.SHA256]
	c, err := measurements.Compare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c.Findings)
	if err != nil {
		t.Fatal(err)
	}
	var generic []map[string]any
	if err := json.Unmarshal(text, &generic); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range generic {
		got = append(got, fmt.Sprint(f["reason"], " ", f["pcr"]))
	}
	want := []string{"missing-bank <nil>", "no-event-log <nil>", "value 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("findings in JSON (-want +got):", diff)
	}
	var again []measurements.Finding
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.Findings, again); diff != "" {
		t.Error("round trip (-want +got):", diff)
	}
}
