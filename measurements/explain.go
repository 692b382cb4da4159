// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"fmt"

	"github.com/constellation-os/constellation/measurements/tcg"
)

// guess names the component of an event that was not predicted, by its PCR and
// what the log says about it. It only helps to word the explanation.
func guess(e *tcg.Event) Component {
	switch {
	case e.PCR == 0 || e.PCR == 6:
		return ComponentFirmware
	case e.PCR <= 3:
		return ComponentMachine
	case e.PCR == 4 && e.Type == tcg.EFIAction, e.PCR == 5 && e.Type == tcg.EFIAction:
		return ComponentFirmware
	case e.PCR == 4, e.PCR == 12, e.PCR == 13:
		return ComponentOverrides
	case e.PCR == 5:
		return ComponentPartitions
	case e.PCR == 7:
		return ComponentVariables
	case e.PCR == 9:
		return ComponentInitrd
	case e.PCR == 11:
		return ComponentMetadata
	case e.PCR == KernelPCR:
		return ComponentIMA
	case e.PCR == ClusterPCR:
		return ComponentCluster
	}
	return ComponentUnknown
}

// whoseElse says why a firmware's log has nothing to tell about a PCR.
func whoseElse(pcr int) string {
	switch pcr {
	case KernelPCR:
		return "which the kernel alone extends and keeps a list of its own for: the log was altered"
	case ClusterPCR:
		return "which only the node's services extend, after the log has ended: the log was altered"
	}
	return "which nothing of a boot measures into and no quote covers: the log was altered, or something foreign ran"
}

// adviceLog is what to do about a log that cannot be true.
const adviceLog = "do not trust this log; take fresh evidence, and if it stays so treat the machine as compromised"

// explain fills in what happened and what to do next, where that was not said yet.
func explain(f *Finding) {
	if f.Explanation != "" {
		return
	}
	switch f.Reason {
	case ReasonDigest:
		f.Explanation = fmt.Sprintf("%s: measured, but not what was predicted", f.Event)
	case ReasonMissingEvent:
		f.Explanation = fmt.Sprintf("%s: predicted, but not measured", f.Event)
	case ReasonExtraEvent:
		f.Explanation = fmt.Sprintf("%s: measured, but not part of the image", f.Event)
	case ReasonOrder:
		f.Explanation = fmt.Sprintf("%s: measured at another place in the sequence", f.Event)
	case ReasonLogDoesNotReplay:
		f.Explanation = fmt.Sprintf("the event log of PCR %d does not give the value that the TPM reports: the log was altered, or the PCR was extended without being logged", f.PCR)
		f.Advice = adviceLog
		return
	case ReasonValue:
		f.Explanation = fmt.Sprintf("PCR %d has another value than predicted and no logged event tells why", f.PCR)
	case ReasonMissingPCR:
		f.Explanation = fmt.Sprintf("PCR %d of the %s bank was not reported", f.PCR, f.Bank)
		f.Advice = "collect the evidence with all PCRs from 0 to 15"
		return
	case ReasonMissingBank:
		f.Explanation = fmt.Sprintf("the TPM has no %s bank", f.Bank)
		f.Advice = "only the other banks were compared; allocate the bank (swtpm_setup --pcr-banks sha256,sha384) to compare it too"
		if f.Fails {
			f.Advice = "allocate the bank in the TPM (swtpm_setup --pcr-banks sha256,sha384) and boot again"
		}
		return
	case ReasonNoLog:
		f.Explanation = "there is no event log, so differences cannot be explained event by event"
		f.Advice = "read it on the machine from /sys/kernel/security/tpm0/binary_bios_measurements"
		return
	}
	f.Advice = advice[f.Component]
	if f.Reason == ReasonExtraEvent && f.Component == ComponentOverrides {
		f.Advice = "remove credentials, add-ons and extensions next to the UKI, and extra kernel arguments; the image takes none"
	}
}

// advice says what to do about a difference in what a component owns.
var advice = map[Component]string{
	ComponentFirmware:   "boot with the OVMF code image that the prediction was made from, or predict again with yours (--firmware-code)",
	ComponentVariables:  "boot with an unused copy of the OVMF variable store that the prediction was made from, or predict again with yours (--firmware-vars)",
	ComponentMachine:    "start the machine in the declared shape, without tables or devices added, or predict again with its shape (--machine, --fw-cfg)",
	ComponentPartitions: "the partition table was changed after the build: write the disk image again",
	ComponentUKI:        "the boot program on the disk is not the one that was built: write the disk image again, or predict from this disk",
	ComponentKernel:     "the kernel inside the UKI was changed: write the disk image again, or predict from this disk",
	ComponentInitrd:     "the initrd was changed or added to: look for credentials and extensions on the EFI system partition, else write the disk image again",
	ComponentCmdline:    "the kernel command line was changed: look for a boot entry or an add-on that sets one, else write the disk image again",
	ComponentMetadata:   "a section of the UKI was changed, or something extended the PCR at run time: write the disk image again, or predict from this disk",
	ComponentOverrides:  "remove credentials, add-ons and extensions next to the UKI, and extra kernel arguments; the image takes none",
	ComponentIMA:        "PCR 10 follows PCR 0 to 9: look at their differences first; without any, an IMA policy was loaded",
	ComponentCluster:    "the machine was initialised for a cluster, or for another one: compare with the prediction for that cluster, or reboot it",
	ComponentUnknown:    "nothing of the image measures into this PCR: find out what else ran",
}
