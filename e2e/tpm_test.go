// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/services/measurementreader"
)

// softwareTPM starts an swtpm with the given banks.
func softwareTPM(t *testing.T, banks string) transport.TPMCloser {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--pcr-banks", banks).CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v: %s", err, out)
	}
	socket, pidFile := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	swtpm := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear", "--daemon", "--pid", "file="+pidFile)
	if out, err := swtpm.CombinedOutput(); err != nil {
		t.Fatalf("swtpm: %v: %s", err, out)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(read(t, pidFile))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

// TestReaderOnARealTPM reads PCRs of a TPM into which something was measured.
func TestReaderOnARealTPM(t *testing.T) {
	for name, banks := range map[string][]measurements.Algorithm{
		"both banks": {measurements.SHA256, measurements.SHA384},
		"one bank":   {measurements.SHA256},
	} {
		t.Run(name, func(t *testing.T) {
			names := make([]string, len(banks))
			for i, bank := range banks {
				names[i] = string(bank)
			}
			tpm := softwareTPM(t, strings.Join(names, ","))
			content := []byte("measured")
			event := tpm2.PCREvent{
				PCRHandle: tpm2.AuthHandle{Handle: 15, Auth: tpm2.PasswordAuth(nil)},
				EventData: tpm2.TPM2BEvent{Buffer: content},
			}
			if _, err := event.Execute(tpm); err != nil {
				t.Fatal(err)
			}
			got, err := measurementreader.ReadPCRs(tpm)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(banks) {
				t.Errorf("%d banks were read, want %v", len(got), banks)
			}
			for _, bank := range banks {
				want := bank.Extend(bank.Zero(), measurements.Sum(content)[bank])
				if !bytes.Equal(got[bank][15], want) || !bytes.Equal(got[bank][14], bank.Zero()) {
					t.Errorf("%s PCR 15 is %s, want %s; PCR 14 is %s", bank, got[bank][15], want, got[bank][14])
				}
			}
		})
	}
}
