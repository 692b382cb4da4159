// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// V8: the PCRs are right, the log was worked on afterwards. None of it passes,
// except relabelling, which changes nothing that is judged.
func TestCompareForgedLog(t *testing.T) {
	const uki, name, content = 3, 4, 5
	replay := func(pcr int, component measurements.Component) brief {
		return brief{pcr, measurements.ReasonLogDoesNotReplay, component, map[int]string{0: "event log of PCR 0", 4: "event log of PCR 4", 11: "event log of PCR 11", 12: "event log of PCR 12"}[pcr], true}
	}
	tests := map[string]struct {
		change func(e []artifacttest.LogEvent) []artifacttest.LogEvent
		want   []brief
	}{
		"relabelled": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[uki].Type, e[uki].Data = tcg.Separator, []byte("nothing to see")
			return e
		}, nil},
		"relabelled as not measured": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent { e[uki].Type = tcg.NoAction; return e },
			[]brief{replay(4, measurements.ComponentUKI), {4, measurements.ReasonMissingEvent, measurements.ComponentUKI, "uki", true}}},
		"appended": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, event(12, tcg.IPL, "Credentials initrd"))
		}, []brief{replay(12, measurements.ComponentOverrides), {12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, "Credentials initrd", true}}},
		"dropped": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return slices.Delete(e, content, content+1) },
			[]brief{replay(11, measurements.ComponentUKI), {11, measurements.ReasonMissingEvent, measurements.ComponentCmdline, "cmdline content", true}}},
		"reordered": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			e[name], e[content] = e[content], e[name]
			return e
		}, []brief{replay(11, measurements.ComponentUKI), {11, measurements.ReasonOrder, measurements.ComponentCmdline, "cmdline name", true}}},
		"moved to another PCR": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent { e[0].PCR = 12; return e },
			[]brief{
				replay(0, measurements.ComponentFirmware), {0, measurements.ReasonMissingEvent, measurements.ComponentFirmware, "version", false},
				replay(12, measurements.ComponentOverrides), {12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, "version", true},
			}},
		"another startup locality": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return slices.Insert(e, 0, artifacttest.LogEvent{Type: tcg.NoAction, Data: append([]byte("StartupLocality\x00"), 3)})
		}, []brief{replay(0, measurements.ComponentFirmware)}},
		"invented for the kernel's PCR": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, event(10, tcg.IPL, "boot_aggregate"))
		}, []brief{{10, measurements.ReasonExtraEvent, measurements.ComponentIMA, "boot_aggregate", true}}},
		"invented for the cluster's PCR": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return slices.Insert(e, uki, event(15, tcg.IPL, "cluster identity"))
		}, []brief{{15, measurements.ReasonExtraEvent, measurements.ComponentCluster, "cluster identity", true}}},
		"invented for PCRs that are not quoted": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, event(23, tcg.IPL, "y"), event(16, tcg.EFIBootServicesApp, "x"))
		}, []brief{
			{16, measurements.ReasonExtraEvent, measurements.ComponentUnknown, "EV_EFI_BOOT_SERVICES_APPLICATION", true},
			{23, measurements.ReasonExtraEvent, measurements.ComponentUnknown, "y", true},
		}},
		"unmeasured text for these": {func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			for _, pcr := range []int{10, 15, 17} {
				e = append(e, artifacttest.LogEvent{PCR: pcr, Type: tcg.NoAction, Data: []byte("x")})
			}
			return e
		}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := prediction(t)
			o := artifacttest.Observed(p, artifacttest.EventsOf(p))
			o.EventLog = artifacttest.Log(measurements.Algorithms(), test.change(artifacttest.EventsOf(p))...)
			c, err := measurements.Compare(p, o)
			if err != nil {
				t.Fatal(err)
			}
			if c.Match != (test.want == nil) {
				t.Errorf("match: %v", c.Match)
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

// What a log invents for the cluster's PCR does not explain its value.
func TestCompareInventedEventExplainsNothing(t *testing.T) {
	p := prediction(t)
	o := artifacttest.Observed(p.Initialized([]byte("another cluster")), artifacttest.EventsOf(p))
	o.EventLog = artifacttest.Log(measurements.Algorithms(), append(artifacttest.EventsOf(p), event(15, tcg.IPL, "another cluster"))...)
	c, err := measurements.Compare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	want := []brief{
		{15, measurements.ReasonValue, measurements.ComponentCluster, "value of PCR 15", true},
		{15, measurements.ReasonExtraEvent, measurements.ComponentCluster, "another cluster", true},
	}
	if diff := cmp.Diff(want, briefs(c)); c.Match || diff != "" {
		t.Errorf("match: %v; findings (-want +got): %s", c.Match, diff)
	}
}

// V9: a machine with other PCRs hands in the log that was expected of it. The
// verdict comes from the prediction and the PCRs alone.
func TestComparePerfectLogOfAnotherMachine(t *testing.T) {
	p := prediction(t)
	tampered := artifacttest.EventsOf(p)
	tampered[5] = event(11, tcg.IPL, "init=/bin/sh")
	o := artifacttest.Observed(p, tampered)
	o.EventLog = artifacttest.Log(measurements.Algorithms(), artifacttest.EventsOf(p)...)
	c, err := measurements.Compare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	want := []brief{{11, measurements.ReasonLogDoesNotReplay, measurements.ComponentUKI, "event log of PCR 11", true}}
	if diff := cmp.Diff(want, briefs(c)); c.Match || diff != "" {
		t.Errorf("match: %v; findings (-want +got): %s", c.Match, diff)
	}
}
