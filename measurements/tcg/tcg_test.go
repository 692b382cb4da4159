// SPDX-License-Identifier: Apache-2.0

package tcg_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func sample() []byte {
	return artifacttest.Log(measurements.Algorithms(),
		artifacttest.LogEvent{PCR: 0, Type: tcg.NoAction, Data: append([]byte("StartupLocality\x00"), 3)},
		artifacttest.LogEvent{PCR: 0, Type: tcg.CRTMVersion, Digests: measurements.Sum([]byte("v")), Data: artifacttest.UTF16("v1.0")},
		artifacttest.LogEvent{PCR: 7, Type: tcg.Separator, Digests: measurements.Sum(make([]byte, 4)), Data: make([]byte, 4)},
	)
}

func TestParse(t *testing.T) {
	log, err := tcg.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]tcg.Algorithm{tcg.AlgSHA256, tcg.AlgSHA384}, log.Algorithms); diff != "" {
		t.Error("algorithms (-want +got):", diff)
	}
	if log.StartupLocality != 3 {
		t.Errorf("startup locality %d, want 3", log.StartupLocality)
	}
	type event struct {
		PCR     int
		Type    string
		Extends bool
		Text    string
	}
	var got []event
	for i := range log.Events {
		e := &log.Events[i]
		got = append(got, event{e.PCR, e.Type.String(), e.Extends(), e.Describe()})
	}
	want := []event{
		{0, "EV_NO_ACTION", false, "StartupLocality?"},
		{0, "EV_S_CRTM_VERSION", true, "v1.0"},
		{7, "EV_SEPARATOR", true, ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("events (-want +got):", diff)
	}
	if d := measurements.Sum([]byte("v"))[measurements.SHA384]; !bytes.Equal(d, log.Events[1].Digest(tcg.AlgSHA384)) {
		t.Error("SHA-384 digest of the version event is another")
	}
}

func TestParsePadding(t *testing.T) {
	for _, pad := range []byte{0, 0xff} {
		log, err := tcg.Parse(append(sample(), bytes.Repeat([]byte{pad}, 100)...))
		if err != nil || len(log.Events) != 3 {
			t.Errorf("padding with %#x: %v", pad, err)
		}
	}
}

// What Parse refuses, and with which reason.
func TestParseRefuses(t *testing.T) {
	le := binary.LittleEndian
	const firstEvent = 32 + 37 // behind the specification identifier with two banks
	mutate := func(f func(b []byte) []byte) []byte { return f(sample()) }
	locality := func(n byte) artifacttest.LogEvent {
		return artifacttest.LogEvent{Type: tcg.NoAction, Data: append([]byte("StartupLocality\x00"), n)}
	}
	extend := artifacttest.LogEvent{Type: tcg.PostCode, Digests: measurements.Sum(nil)}
	banks := measurements.Algorithms()
	tests := map[string]struct {
		log  []byte
		want tcg.Reason
	}{
		"empty":                    {nil, tcg.ReasonEmpty},
		"larger than the limit":    {make([]byte, tcg.MaxLogSize+1), tcg.ReasonTooLarge},
		"a few bytes":              {sample()[:7], tcg.ReasonTruncated},
		"ends inside an event":     {sample()[:firstEvent+20], tcg.ReasonTruncated},
		"ends inside event data":   {sample()[:len(sample())-1], tcg.ReasonTruncated},
		"old SHA-1 format":         {mutate(func(b []byte) []byte { b[32] = 'X'; return b }), tcg.ReasonNotAgile},
		"first event extends":      {mutate(func(b []byte) []byte { le.PutUint32(b[4:], uint32(tcg.PostCode)); return b }), tcg.ReasonNotAgile},
		"no algorithms":            {mutate(func(b []byte) []byte { le.PutUint32(b[32+24:], 0); return b }), tcg.ReasonBadHeader},
		"4 billion algorithms":     {mutate(func(b []byte) []byte { le.PutUint32(b[32+24:], 1<<32-1); return b }), tcg.ReasonBadHeader},
		"wrong digest size":        {mutate(func(b []byte) []byte { le.PutUint16(b[32+30:], 31); return b }), tcg.ReasonBadHeader},
		"algorithm declared twice": {mutate(func(b []byte) []byte { copy(b[32+32:], b[32+28:32+32]); return b }), tcg.ReasonBadHeader},
		"header with trailing data": {mutate(func(b []byte) []byte {
			le.PutUint32(b[28:], 38)
			return append(b[:firstEvent:firstEvent], append([]byte{1}, b[firstEvent:]...)...)
		}), tcg.ReasonBadHeader},
		"event lacks a bank":         {mutate(func(b []byte) []byte { le.PutUint32(b[firstEvent+8:], 1); return b }), tcg.ReasonBadDigests},
		"event with an unknown bank": {mutate(func(b []byte) []byte { le.PutUint16(b[firstEvent+12:], 0x12); return b }), tcg.ReasonBadDigests},
		"event with a bank twice":    {mutate(func(b []byte) []byte { le.PutUint16(b[firstEvent+12+34:], 0x0b); return b }), tcg.ReasonBadDigests},
		"PCR 24":                     {artifacttest.Log(banks, artifacttest.LogEvent{PCR: 24, Type: tcg.PostCode}), tcg.ReasonBadPCRIndex},
		"event data of 4 GiB":        {mutate(func(b []byte) []byte { le.PutUint32(b[len(b)-8:], 1<<32-1); return b }), tcg.ReasonTooLarge},
		"too many events": {artifacttest.Log([]measurements.Algorithm{measurements.SHA256}, make([]artifacttest.LogEvent, tcg.MaxEvents+1)...),
			tcg.ReasonTooLarge},
		"locality stated twice":      {artifacttest.Log(banks, locality(0), locality(3)), tcg.ReasonBadLocality},
		"locality after measurement": {artifacttest.Log(banks, extend, locality(3)), tcg.ReasonBadLocality},
		"locality of no platform":    {artifacttest.Log(banks, locality(7)), tcg.ReasonBadLocality},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tcg.Parse(test.log)
			var e *tcg.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

// Text of a log reaches terminals: it must not carry control sequences.
func TestDescribeIsPrintable(t *testing.T) {
	e := tcg.Event{Type: tcg.Action, Data: []byte("\x1b[31mred\n\u00e4")}
	if got, want := e.Describe(), "?[31mred??"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := tcg.Event{Type: tcg.Action, Data: bytes.Repeat([]byte("x"), 1<<16)}
	if n := len(long.Describe()); n > 200 {
		t.Errorf("%d characters of description", n)
	}
}

// An honest log takes three allocations, whatever its length.
func TestParseAllocations(t *testing.T) {
	raw := sample()
	if n := testing.AllocsPerRun(100, func() { _, _ = tcg.Parse(raw) }); n > 8 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample())
	f.Add(artifacttest.Log([]measurements.Algorithm{measurements.SHA256}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := tcg.Parse(raw)
		if err != nil {
			var e *tcg.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		for i := range log.Events {
			e := &log.Events[i]
			if len(e.Digests) != len(log.Algorithms) {
				t.Fatalf("event %d has %d digests", i, len(e.Digests))
			}
			for _, c := range e.Describe() {
				if c < 0x20 || c > 0x7e {
					t.Fatalf("event %d describes itself with %q", i, c)
				}
			}
		}
	})
}
