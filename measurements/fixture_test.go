// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"testing"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
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
