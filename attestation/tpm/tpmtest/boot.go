// SPDX-License-Identifier: Apache-2.0

package tpmtest

import (
	"fmt"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// Prediction is of an image that boots with so many events: a real machine logs about
// a hundred.
func Prediction(image string, events int) *measurements.Prediction {
	p := &measurements.Prediction{
		Version: measurements.Version, Image: measurements.Image{Name: image},
		Enforced: measurements.EnforcedQEMU(), Unpredicted: []measurements.Unpredicted{},
	}
	for i := range events {
		p.Events = append(p.Events, measurements.Event{
			PCR: []int{4, 9, 11, 0, 1, 2, 3, 5, 6, 7}[i%10], Type: tcg.IPL.String(), Component: measurements.ComponentFirmware,
			Description: fmt.Sprintf("event %d of %s", i, image), Digests: measurements.Sum(fmt.Appendf(nil, "event %d of %s", i, image)),
		})
	}
	p.PCRs = p.Replay()
	return p
}

// Observed is what a machine reports that booted as predicted.
func Observed(p *measurements.Prediction) *measurements.Observed {
	events := artifacttest.EventsOf(p)
	for i := range events {
		events[i].Data = make([]byte, 200) // a load option or a device path, in a real log
	}
	return artifacttest.Observed(p, events)
}
