// SPDX-License-Identifier: Apache-2.0

//go:build guest

package guesttest

import (
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// TestSoftwareTPM is in a target of its own, whose guest has a TPM.
func TestSoftwareTPM(t *testing.T) {
	if _, err := os.Stat("/dev/tpmrm0"); err != nil && os.Getenv("GUEST_HAS_TPM") == "" {
		t.Skip("this guest has no TPM")
	}
	tpm, err := linuxtpm.Open("/dev/tpmrm0")
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	random, err := tpm2.GetRandom{BytesRequested: 16}.Execute(tpm)
	if err != nil || len(random.RandomBytes.Buffer) != 16 {
		t.Errorf("the TPM gave %v, %v", random, err)
	}
}
