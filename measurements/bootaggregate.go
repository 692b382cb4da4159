// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/measurements/ima"
)

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

// kernelList sets PCR 10 against the kernel's own list and records what the list
// has beside the boot aggregate. It decides nothing: PCR 10 is not enforced.
func (c *comparer) kernelList() error {
	if len(c.o.IMALog) == 0 {
		return nil
	}
	entries, err := ima.Parse(c.o.IMALog)
	if err != nil {
		return fmt.Errorf("compare: %w: %w", ErrLog, err)
	}
	aggregate, err := BootAggregate(c.o.PCRs[SHA256])
	values := map[Algorithm]Digest{}
	for _, a := range c.out.Banks {
		values[a] = a.Zero()
	}
	for i := range entries {
		e := &entries[i]
		if e.PCR != KernelPCR {
			continue
		}
		var digests Digests
		if e.Data != nil {
			digests = Sum(e.Data)
		}
		for a, v := range values {
			digest := digests[a]
			if digest == nil {
				digest = bytes.Repeat([]byte{0xff}, a.Size())
			}
			a.extend(v, digest)
		}
		if err == nil && bytes.Equal(digests[SHA256], aggregate[SHA256]) {
			continue
		}
		reason, name := ReasonExtraEvent, e.Name()
		if name == BootAggregateName {
			reason = ReasonDigest
		}
		if name == "" {
			name = "entry without a name"
		}
		c.row(EventResult{PCR: KernelPCR, Type: e.Template, Description: name, Component: ComponentIMA, Status: StatusMismatch, Reason: reason, Seen: digests[SHA256]})
		c.find(Finding{PCR: KernelPCR, Reason: reason, Fails: c.enforced(KernelPCR), Component: ComponentIMA, Event: name, Bank: SHA256,
			Seen: digests[SHA256]})
	}
	for _, a := range c.out.Banks {
		if seen, ok := c.o.PCRs[a][KernelPCR]; ok && !bytes.Equal(values[a], seen) {
			c.find(Finding{PCR: KernelPCR, Reason: ReasonLogDoesNotReplay, Fails: c.enforced(KernelPCR), Component: ComponentIMA, Bank: a,
				Event: fmt.Sprintf("kernel's list of PCR %d", KernelPCR), Expected: seen, Seen: values[a]})
			break
		}
	}
	return nil
}
