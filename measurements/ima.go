// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// imaPCR is the PCR of the kernel's integrity subsystem (CONFIG_IMA_MEASURE_PCR_IDX).
const imaPCR = 10

// BootAggregateName is how the kernel's list calls the entry.
const BootAggregateName = "boot_aggregate"

// BootAggregate computes what the kernel's integrity subsystem extends PCR 10
// with when it starts: its first entry, whose content is SHA-256 over PCR 0 to 9
// of the SHA-256 bank (security/integrity/ima/ima_crypto.c,
// ima_calc_boot_aggregate). The entry has the template "ima-sig" (Debian:
// CONFIG_IMA_SIG_TEMPLATE, CONFIG_IMA_DEFAULT_HASH_SHA256); each bank is
// extended with its own hash of the same template data. Without an IMA policy
// nothing follows.
func BootAggregate(sha256 PCRs) (Digests, error) {
	var values [][]byte
	for pcr := range 10 {
		v, ok := sha256[pcr]
		if !ok {
			return nil, fmt.Errorf("boot aggregate: no value of PCR %d", pcr)
		}
		values = append(values, v)
	}
	aggregate := Sum(values...)[SHA256]
	return Sum(slices.Concat(
		imaField(append([]byte("sha256:\x00"), aggregate...)),
		imaField([]byte(BootAggregateName+"\x00")),
		imaField(nil), // no signature
	)), nil
}

// imaField is one field of template data, behind its length.
func imaField(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}
