// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"fmt"

	"github.com/constellation-os/constellation/measurements/ima"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// KernelPCR is extended by the kernel's integrity subsystem, which keeps a list of
// its own.
const KernelPCR = ima.PCR

// InFirmwareLog says whether a firmware's log can account for a PCR: one of 0 to 15
// that firmware, boot loader or the kernel's EFI stub measure into. KernelPCR and
// ClusterPCR are extended after the log has ended, and nothing of a boot measures
// into PCR 16 and above, which no quote covers. Events that a log claims for these
// were invented, or measured by something that is not part of a boot.
func InFirmwareLog(pcr int) bool {
	return pcr >= 0 && pcr < PCRCount && pcr != KernelPCR && pcr != ClusterPCR
}

// ReplayLog computes what the events of a log lead a bank's PCRs to. Types and data
// of events are not measured and do not matter, but for EV_NO_ACTION, which does not
// extend. Events of PCRs above 15 are skipped. It is an error if the log has no
// digests of the bank.
func (a Algorithm) ReplayLog(log *tcg.Log) (values [PCRCount]Digest, err error) {
	alg, size := a.TCG(), a.Size()
	if !log.Has(alg) {
		return values, fmt.Errorf("the log has no digests of the %s bank", a)
	}
	bank := make([]byte, PCRCount*size)
	for pcr := range values {
		values[pcr] = bank[pcr*size : (pcr+1)*size : (pcr+1)*size]
	}
	values[0][size-1] = log.StartupLocality
	for i := range log.Events {
		if e := &log.Events[i]; e.Extends() && e.PCR >= 0 && e.PCR < PCRCount {
			a.extend(values[e.PCR], e.Digest(alg))
		}
	}
	return values, nil
}
