// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"testing"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func BenchmarkCompare(b *testing.B) {
	p := prediction(b)
	o := artifacttest.Observed(p, artifacttest.EventsOf(p))
	r, err := measurements.NewReference(p)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if c, err := r.Compare(o); err != nil || !c.Match {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseLog(b *testing.B) {
	p := prediction(b)
	raw := artifacttest.Log(measurements.Algorithms(), artifacttest.EventsOf(p)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tcg.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
