// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/ima"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// The machine measured something else, and its log says so.
func TestCompareHonestLog(t *testing.T) {
	const uki, name, content = 3, 4, 5 // indices in the log
	tests := map[string]struct {
		change func(events []artifacttest.LogEvent) []artifacttest.LogEvent
		match  bool
		want   []brief
	}{
		"as predicted": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return e }, true, nil},
		"other event": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[content] = event(11, tcg.IPL, "other")
			return e
		}, false, []brief{{11, measurements.ReasonDigest, measurements.ComponentCmdline, "cmdline content", true}}},
		"two other events": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[uki], e[content] = event(4, tcg.EFIBootServicesApp, "evil"), event(11, tcg.IPL, "other")
			return e
		}, false, []brief{
			{4, measurements.ReasonDigest, measurements.ComponentUKI, "uki", true},
			{11, measurements.ReasonDigest, measurements.ComponentCmdline, "cmdline content", true},
		}},
		"event missing": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return slices.Delete(e, uki, uki+1) },
			false, []brief{{4, measurements.ReasonMissingEvent, measurements.ComponentUKI, "uki", true}}},
		"event in between": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return slices.Insert(e, uki, event(4, tcg.EFIBootServicesApp, "shell"))
		}, false, []brief{{4, measurements.ReasonExtraEvent, measurements.ComponentOverrides, "EV_EFI_BOOT_SERVICES_APPLICATION", true}}},
		"credential": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, event(12, tcg.IPL, "Credentials initrd"))
		}, false, []brief{{12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, "Credentials initrd", true}}},
		"other order": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[name], e[content] = e[content], e[name]
			return e
		}, false, []brief{{11, measurements.ReasonOrder, measurements.ComponentCmdline, "cmdline name", true}}},
		"same digests, other labels": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			for i := range e {
				e[i].Type, e[i].Data = tcg.PostCode, []byte("relabelled")
			}
			return e
		}, true, nil},
		"unmeasured text": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return slices.Insert(e, 2, artifacttest.LogEvent{PCR: 4, Type: tcg.NoAction, Digests: measurements.Sum([]byte("x")), Data: []byte("x")})
		}, true, nil},
		"only the SHA-384 digest differs": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			d := measurements.Sum([]byte("uki"))
			d[measurements.SHA384] = measurements.Sum([]byte("other"))[measurements.SHA384]
			e[uki].Digests = d
			return e
		}, false, []brief{{4, measurements.ReasonDigest, measurements.ComponentUKI, "uki", true}}},
		"PCR that is not enforced": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[0] = event(0, tcg.CRTMVersion, "other firmware")
			return e
		}, true, []brief{{0, measurements.ReasonDigest, measurements.ComponentFirmware, "version", false}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := prediction(t)
			c, err := measurements.Compare(p, artifacttest.Observed(p, test.change(artifacttest.EventsOf(p))))
			if err != nil {
				t.Fatal(err)
			}
			if c.Match != test.match {
				t.Errorf("match: %v, want %v", c.Match, test.match)
			}
			if diff := cmp.Diff(test.want, briefs(c)); diff != "" {
				t.Error("findings (-want +got):", diff)
			}
			for _, f := range c.Findings {
				if f.Explanation == "" || f.Advice == "" {
					t.Errorf("finding without explanation or advice: %+v", f)
				}
			}
		})
	}
}

func TestCompareInitialized(t *testing.T) {
	p := prediction(t)
	q := p.Initialized([]byte("cluster"))
	o := artifacttest.Observed(q, artifacttest.EventsOf(q))
	for name, test := range map[string]struct {
		p    *measurements.Prediction
		want bool
	}{"own cluster": {q, true}, "fresh node wanted": {p, false}, "other cluster": {p.Initialized([]byte("other")), false}} {
		if c, err := measurements.Compare(test.p, o); err != nil || c.Match != test.want {
			t.Errorf("%s: %v, want match %v", name, err, test.want)
		}
	}
	if len(p.Events) != len(q.Events)-1 {
		t.Error("the original prediction was changed")
	}
}

// Events that the prediction names as unknown do not fail, and PCR 10 is
// explained by the values of the others.
func TestCompareUnpredicted(t *testing.T) {
	p := prediction(t)
	p.Events = p.Events[:len(p.Events)-1]
	p.Unpredicted = []measurements.Unpredicted{{PCR: 1, Event: "ACPI", Why: "test"}, {PCR: 10, Event: "boot_aggregate", Why: "test"}}
	p.PCRs = p.Replay()
	o := artifacttest.Observed(p, append(artifacttest.EventsOf(p), event(1, tcg.PlatformConfigFlags, "ACPI DATA")))
	c, err := measurements.Compare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Match || len(c.Findings) != 0 {
		t.Errorf("match %v, findings %v", c.Match, c.Findings)
	}
	if c.PCRs[1].Status != measurements.StatusUnpredicted || c.PCRs[10].Status != measurements.StatusExplained || c.PCRs[4].Status != measurements.StatusMatch {
		t.Errorf("status of PCR 1, 10, 4: %s, %s, %s", c.PCRs[1].Status, c.PCRs[10].Status, c.PCRs[4].Status)
	}
}

func TestCompareRefuses(t *testing.T) {
	p := prediction(t)
	o := artifacttest.Observed(p, artifacttest.EventsOf(p))
	o.EventLog = o.EventLog[:len(o.EventLog)-1]
	var e *tcg.Error
	if _, err := measurements.Compare(p, o); !errors.Is(err, measurements.ErrLog) || !errors.As(err, &e) || e.Reason != tcg.ReasonTruncated {
		t.Errorf("truncated log: %v", err)
	}
	o = artifacttest.Observed(p, artifacttest.EventsOf(p))
	o.IMALog = []byte("cut")
	var i *ima.Error
	if _, err := measurements.Compare(p, o); !errors.Is(err, measurements.ErrLog) || !errors.As(err, &i) || i.Reason != ima.ReasonTruncated {
		t.Errorf("truncated IMA list: %v", err)
	}
	o = artifacttest.Observed(p, artifacttest.EventsOf(p))
	p.PCRs[measurements.SHA256][4] = measurements.SHA256.Zero()
	if _, err := measurements.Compare(p, o); !errors.Is(err, measurements.ErrFormat) {
		t.Errorf("prediction that contradicts itself: %v", err)
	}
}

// The longest log against a prediction stays cheap.
func TestCompareHugeLog(t *testing.T) {
	p := prediction(t)
	events := artifacttest.EventsOf(p)
	for len(events) < tcg.MaxEvents {
		events = append(events, event(4, tcg.EFIAction, "x"))
	}
	c, err := measurements.Compare(p, artifacttest.Observed(p, events))
	if err != nil || c.Match {
		t.Errorf("match or error: %v", err)
	}
}

func FuzzCompare(f *testing.F) {
	p := prediction(f)
	o := artifacttest.Observed(p, artifacttest.EventsOf(p))
	f.Add(o.EventLog, uint8(16))
	f.Add(artifacttest.Log(measurements.Algorithms(), append(artifacttest.EventsOf(p), event(10, tcg.IPL, "x"), event(17, tcg.IPL, "x"))...), uint8(16))
	f.Fuzz(func(t *testing.T, log []byte, pcr uint8) {
		o := artifacttest.Observed(p, artifacttest.EventsOf(p))
		o.EventLog = log
		if pcr < measurements.PCRCount { // one PCR is another
			o.PCRs[measurements.SHA256][int(pcr)] = measurements.Sum(log)[measurements.SHA256]
		}
		c, err := measurements.Compare(p, o)
		if err != nil {
			return
		}
		// A verdict has a reason, and no log talks a wrong PCR right.
		fails := slices.ContainsFunc(c.Findings, func(x measurements.Finding) bool { return x.Fails })
		if c.Match == fails {
			t.Fatalf("match %v with findings %+v", c.Match, c.Findings)
		}
		if pcr < measurements.PCRCount && p.IsEnforced(int(pcr)) && c.Match {
			t.Fatalf("match with another PCR %d", pcr)
		}
	})
}
