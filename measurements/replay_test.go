// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func TestReplayLog(t *testing.T) {
	raw := artifacttest.Log([]measurements.Algorithm{measurements.SHA256},
		artifacttest.LogEvent{Type: tcg.NoAction, Data: append([]byte("StartupLocality\x00"), 3)},
		event(4, tcg.EFIAction, "a"), event(17, tcg.EFIAction, "x"), event(4, tcg.Separator, "b"),
		artifacttest.LogEvent{PCR: 4, Type: tcg.NoAction, Digests: measurements.Sum([]byte("not measured"))},
	)
	log, err := tcg.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := measurements.SHA256.ReplayLog(log)
	if err != nil {
		t.Fatal(err)
	}
	a, b := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))
	first := sha256.Sum256(append(make([]byte, 32), a[:]...))
	second := sha256.Sum256(append(first[:], b[:]...))
	var want [16]measurements.Digest
	for pcr := range want {
		want[pcr] = make([]byte, 32)
	}
	want[0][31], want[4] = 3, second[:]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if _, err := measurements.SHA384.ReplayLog(log); err == nil {
		t.Error("a bank that the log lacks was replayed")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = measurements.SHA256.ReplayLog(log) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestInFirmwareLog(t *testing.T) {
	var got []int
	for pcr := -1; pcr < 25; pcr++ {
		if measurements.InFirmwareLog(pcr) {
			got = append(got, pcr)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// One event more or less in one PCR leaves the others as they were.
func TestReplayLogKeepsPCRsApart(t *testing.T) {
	values := func(events ...artifacttest.LogEvent) [16]measurements.Digest {
		log, err := tcg.Parse(artifacttest.Log(measurements.Algorithms(), events...))
		if err != nil {
			t.Fatal(err)
		}
		v, err := measurements.SHA384.ReplayLog(log)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	before, after := values(), values(event(9, tcg.EventTag, "x"))
	for pcr := range before {
		if same := bytes.Equal(before[pcr], after[pcr]); same != (pcr != 9) {
			t.Errorf("PCR %d is the same: %v", pcr, same)
		}
	}
}
