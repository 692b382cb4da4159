// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/measurements"
)

// maxAttempts bounds how often a PCR is asked for when the TPM answers with
// fewer values than selected, as it may (TPM 2.0 Library Part 3, section 22.4).
const maxAttempts = measurements.PCRCount

// ReadPCRs reads PCR 0 to 15 of every active bank that measurements cover.
func ReadPCRs(tpm transport.TPM) (measurements.Banks, error) {
	active, err := activeBanks(tpm)
	if err != nil {
		return nil, fmt.Errorf("ask the TPM for its PCR banks: %w", err)
	}
	banks := make(measurements.Banks)
	for _, a := range measurements.Algorithms() {
		if !active[tpm2.TPMAlgID(a.TCG())] {
			continue
		}
		if banks[a], err = readBank(tpm, a); err != nil {
			return nil, fmt.Errorf("read the %s PCRs: %w", a, err)
		}
	}
	if banks[measurements.SHA256] == nil {
		return nil, errors.New("the TPM has no active SHA-256 bank: nothing can be compared")
	}
	return banks, nil
}

// activeBanks asks for the allocated PCRs (TPM 2.0 Library Part 3, section
// 30.2). A bank is active if it has any PCR.
func activeBanks(tpm transport.TPM) (map[tpm2.TPMAlgID]bool, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	selections, err := answer.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	active := make(map[tpm2.TPMAlgID]bool)
	for _, s := range selections.PCRSelections {
		for _, bits := range s.PCRSelect {
			if bits != 0 {
				active[s.Hash] = true
			}
		}
	}
	return active, nil
}

func readBank(tpm transport.TPM, a measurements.Algorithm) (measurements.PCRs, error) {
	values := make(measurements.PCRs, measurements.PCRCount)
	for attempt := 0; len(values) < measurements.PCRCount; attempt++ {
		if attempt == maxAttempts {
			return nil, fmt.Errorf("the TPM withholds %d of %d values", measurements.PCRCount-len(values), measurements.PCRCount)
		}
		answer, err := tpm2.PCRRead{PCRSelectionIn: selection(a, func(pcr int) bool { return values[pcr] == nil })}.Execute(tpm)
		if err != nil {
			return nil, err
		}
		if err := take(values, a, answer); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// take adds the values of one answer. They are in the order of its own selection.
func take(values measurements.PCRs, a measurements.Algorithm, answer *tpm2.PCRReadResponse) error {
	digests := answer.PCRValues.Digests
	for _, s := range answer.PCRSelectionOut.PCRSelections {
		if s.Hash != tpm2.TPMAlgID(a.TCG()) {
			return errors.New("the TPM answered for another bank")
		}
		for pcr := range measurements.PCRCount {
			if len(s.PCRSelect) <= pcr/8 || s.PCRSelect[pcr/8]>>(pcr%8)&1 == 0 {
				continue
			}
			if len(digests) == 0 || len(digests[0].Buffer) != a.Size() {
				return errors.New("the TPM's answer does not fit its selection")
			}
			values[pcr], digests = digests[0].Buffer, digests[1:]
		}
	}
	return nil
}

func selection(a measurements.Algorithm, wanted func(pcr int) bool) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3) // a PC Client TPM has 24 PCRs
	for pcr := range measurements.PCRCount {
		if wanted(pcr) {
			bits[pcr/8] |= 1 << (pcr % 8)
		}
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(a.TCG()), PCRSelect: bits}}}
}
