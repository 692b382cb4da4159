// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"strings"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/printable"
)

// ima predicts PCR 10, which follows from PCR 0 to 9 unless the command line
// gives the kernel's integrity subsystem a policy, hash or template.
func ima(p *measurements.Prediction, uki *pe.UKI) error {
	cannot := func(why string) {
		p.Unpredicted = append(p.Unpredicted, measurements.Unpredicted{PCR: measurements.KernelPCR, Event: measurements.BootAggregateName, Why: why})
	}
	cmdline, _ := uki.Section(".cmdline")
	for _, arg := range strings.Fields(string(cmdline)) {
		if strings.HasPrefix(arg, "ima") {
			cannot("the command line changes the integrity subsystem: " + printable.Text(arg, 64))
			return nil
		}
	}
	for pcr := range 10 {
		if !predicted(p.Unpredicted, pcr) {
			cannot("it hashes PCR 0 to 9, which are not all predicted")
			return nil
		}
	}
	digests, err := measurements.BootAggregate(p.Replay()[measurements.SHA256])
	if err != nil {
		return err
	}
	p.Events = append(p.Events, measurements.Event{
		PCR: measurements.KernelPCR, Type: "IMA", Digests: digests,
		Component: measurements.ComponentIMA, Description: "boot aggregate over PCR 0 to 9",
	})
	return nil
}
