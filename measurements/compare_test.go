// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/ima"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// prediction is a small one: firmware in PCR 0, three events in PCR 4, two in
// PCR 11, the boot aggregate.
func prediction(t testing.TB) *measurements.Prediction {
	t.Helper()
	p := &measurements.Prediction{
		Version:     measurements.Version,
		Image:       measurements.Image{Name: "test"},
		Enforced:    measurements.EnforcedQEMU(),
		Unpredicted: []measurements.Unpredicted{},
	}
	add := func(pcr int, typ tcg.EventType, c measurements.Component, what string) {
		p.Events = append(p.Events, measurements.Event{PCR: pcr, Type: typ.String(), Digests: measurements.Sum([]byte(what)), Component: c, Description: what})
	}
	add(0, tcg.CRTMVersion, measurements.ComponentFirmware, "version")
	add(4, tcg.EFIAction, measurements.ComponentFirmware, "action")
	add(4, tcg.Separator, measurements.ComponentFirmware, "separator")
	add(4, tcg.EFIBootServicesApp, measurements.ComponentUKI, "uki")
	add(11, tcg.IPL, measurements.ComponentCmdline, "cmdline name")
	add(11, tcg.IPL, measurements.ComponentCmdline, "cmdline content")
	digests, err := measurements.BootAggregate(p.Replay()[measurements.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	p.Events = append(p.Events, measurements.Event{PCR: 10, Type: "IMA", Digests: digests, Component: measurements.ComponentIMA, Description: "boot aggregate"})
	p.PCRs = p.Replay()
	return p
}

// brief is what tests assert of a finding.
type brief struct {
	PCR       int
	Reason    measurements.Reason
	Component measurements.Component
	Event     string
	Fails     bool
}

func briefs(c *measurements.Comparison) []brief {
	var out []brief
	for _, f := range c.Findings {
		out = append(out, brief{f.PCR, f.Reason, f.Component, f.Event, f.Fails})
	}
	return out
}

func event(pcr int, typ tcg.EventType, what string) artifacttest.LogEvent {
	return artifacttest.LogEvent{PCR: pcr, Type: typ, Digests: measurements.Sum([]byte(what)), Data: []byte(what)}
}

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

// The kernel's list tells what PCR 10 has beside the boot aggregate.
func TestCompareKernelList(t *testing.T) {
	field := func(s string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...)
	}
	entry := func(data []byte) []byte {
		b := append([]byte{10, 0, 0, 0, 1}, make([]byte, 19)...)
		b = append(b, field("ima-sig")...)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(data))), data...)
	}
	p := prediction(t)
	var values [][]byte
	for pcr := range 10 {
		values = append(values, p.PCRs[measurements.SHA256][pcr])
	}
	aggregate := measurements.Sum(values...)[measurements.SHA256]
	first := slices.Concat(field("sha256:\x00"+string(aggregate)), field("boot_aggregate\x00"), field(""))
	second := slices.Concat(field("sha256:\x00x"), field("/usr/bin/x\x00"), field(""))
	tests := map[string]struct {
		list     []byte
		extended [][]byte
		want     []brief
	}{
		"boot aggregate alone": {entry(first), nil, nil},
		"a file":               {append(entry(first), entry(second)...), [][]byte{second}, []brief{{10, measurements.ReasonExtraEvent, measurements.ComponentIMA, "/usr/bin/x", false}}},
		"list is short":        {entry(first), [][]byte{second}, []brief{{10, measurements.ReasonLogDoesNotReplay, measurements.ComponentIMA, "kernel's list of PCR 10", false}}},
		"no list":              {nil, [][]byte{second}, []brief{{10, measurements.ReasonValue, measurements.ComponentIMA, "value of PCR 10", false}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := artifacttest.Observed(p, artifacttest.EventsOf(p))
			o.IMALog = test.list
			for a, pcrs := range o.PCRs {
				for _, data := range test.extended {
					pcrs[10] = a.Extend(pcrs[10], measurements.Sum(data)[a])
				}
			}
			c, err := measurements.Compare(p, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, briefs(c)); !c.Match || diff != "" {
				t.Errorf("match: %v; findings (-want +got): %s", c.Match, diff)
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
