// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// startTPM manufactures a TPM and runs it. It returns the descriptor that QEMU controls it by.
func startTPM(scratch string) (control *os.File, stop func(), err error) {
	state := filepath.Join(scratch, "tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, nil, err
	}
	setup := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", "sha256,sha384")
	if out, err := setup.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("swtpm_setup (packages swtpm and swtpm-tools): %w: %s", err, out)
	}
	control, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	tpm := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,clientfd=3", "--terminate")
	tpm.ExtraFiles = []*os.File{theirs}
	ended, err := start(tpm)
	if err != nil {
		control.Close()
		return nil, nil, err
	}
	return control, func() {
		_ = tpm.Process.Kill() // it ends with QEMU, as a rule
		<-ended
	}, nil
}
