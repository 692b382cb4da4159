// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/pe"
)

// ima predicts PCR 10: without a policy the kernel's integrity subsystem adds a
// single entry, the boot aggregate, with the template of Debian's kernel
// (CONFIG_IMA_SIG_TEMPLATE, CONFIG_IMA_DEFAULT_HASH_SHA256). The aggregate is
// SHA-256 over PCR 0 to 9 of the SHA-256 bank (security/integrity/ima/
// ima_crypto.c, ima_calc_boot_aggregate); each bank is extended with its own
// hash of the same template data.
func ima(p *measurements.Prediction, uki *pe.UKI) error {
	const entry = "boot_aggregate"
	cannot := func(why string) {
		p.Unpredicted = append(p.Unpredicted, measurements.Unpredicted{PCR: 10, Event: entry, Why: why})
	}
	cmdline, _ := uki.Section(".cmdline")
	for _, arg := range strings.Fields(string(cmdline)) {
		if strings.HasPrefix(arg, "ima") {
			cannot("the command line changes the integrity subsystem: " + arg)
			return nil
		}
	}
	values := p.Replay()[measurements.SHA256]
	var banks [][]byte
	for pcr := range 10 {
		if !predicted(p.Unpredicted, pcr) {
			cannot("it hashes PCR 0 to 9, which are not all predicted")
			return nil
		}
		banks = append(banks, values[pcr])
	}
	aggregate := measurements.Sum(banks...)[measurements.SHA256]
	data := slices.Concat(
		imaField(append([]byte("sha256:\x00"), aggregate...)),
		imaField([]byte(entry+"\x00")),
		imaField(nil), // no signature
	)
	p.Events = append(p.Events, measurements.Event{
		PCR: 10, Type: "IMA", Digests: measurements.Sum(data),
		Component: measurements.ComponentIMA, Description: "boot aggregate over PCR 0 to 9",
	})
	return nil
}

// imaField is one field of template data, behind its length.
func imaField(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}
