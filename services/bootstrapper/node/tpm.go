// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/measurements"
)

// Register is PCR 15 of a TPM.
type Register struct {
	// Open opens the TPM. The kernel's resource manager keeps its users apart.
	Open func() (transport.TPMCloser, error)
}

// Read implements steps.Register.
func (r *Register) Read(context.Context) (measurements.Digests, error) {
	t, err := r.Open()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	values := measurements.Digests{}
	for _, a := range measurements.Algorithms() {
		bits := make([]byte, 3) // a PC Client TPM has 24 PCRs
		bits[measurements.ClusterPCR/8] |= 1 << (measurements.ClusterPCR % 8)
		answer, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(a.TCG()), PCRSelect: bits}},
		}}.Execute(t)
		if err != nil {
			return nil, err
		}
		// Of a bank that is not active there is nothing (TPM 2.0 Library Part 3, section 22.4).
		if len(answer.PCRValues.Digests) == 0 {
			continue
		}
		value := answer.PCRValues.Digests[0].Buffer
		if len(value) != a.Size() {
			return nil, fmt.Errorf("the TPM's %s bank has a value of %d bytes", a, len(value))
		}
		values[a] = value
	}
	return values, nil
}

// Extend implements steps.Register. One command extends all banks (TPM 2.0 Library
// Part 3, section 22.2): there is no half of it.
func (r *Register) Extend(_ context.Context, digests measurements.Digests) error {
	t, err := r.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	var list []tpm2.TPMTHA
	for _, a := range slices.Sorted(maps.Keys(digests)) {
		list = append(list, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(a.TCG()), Digest: digests[a]})
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(measurements.ClusterPCR), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: list},
	}.Execute(t)
	return err
}
