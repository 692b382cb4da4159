// SPDX-License-Identifier: Apache-2.0

// Package swtpmtest runs software TPMs for tests: real swtpm processes with
// endorsement certificates by a local authority, as on a QEMU machine. It needs
// swtpm and swtpm_setup on PATH. No program that ships may link it.
package swtpmtest

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// Authority is a folder with swtpm_localca's keys.
type Authority struct{ dir string }

// NewAuthority makes one; its keys come with the first TPM.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	return AuthorityAt(t, t.TempDir())
}

// AuthorityAt is the one whose keys are in a folder, such as that of a local cluster's
// TPMs; it is made there if there is none.
func AuthorityAt(t testing.TB, dir string) *Authority {
	t.Helper()
	for name, text := range map[string]string{
		"setup.conf":      fmt.Sprintf("create_certs_tool=swtpm_localca\ncreate_certs_tool_config=%[1]s/localca.conf\ncreate_certs_tool_options=%[1]s/localca.options\n", dir),
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", dir),
		"localca.options": "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Authority{dir}
}

// Certificate is what signs endorsement certificates, in DER.
func (a *Authority) Certificate(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, "issuercert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no certificate")
	}
	return block.Bytes
}

// Start manufactures a TPM with SHA-256 and SHA-384 banks and runs it until the test ends.
func Start(t testing.TB, a *Authority) transport.TPM {
	t.Helper()
	state := t.TempDir()
	manufacture(t, a, state)
	return startAt(t, state)
}

// Copy runs a TPM that has the state of another, as whoever can read that has it. Its
// registers are as after a reboot.
func Copy(t testing.TB, state string) transport.TPM {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile(filepath.Join(state, stateFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, stateFile), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return startAt(t, dir)
}

// stateFile is where swtpm keeps what a TPM 2.0 has of lasting state.
const stateFile = "tpm2-00.permall"

// startAt runs a TPM on the state in a folder.
func startAt(t testing.TB, state string) transport.TPM {
	t.Helper()
	conn, file := socketPair(t)
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--fd", "3", "--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{file}
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() {
		conn.Close()
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("swtpm: %s", output.String())
		}
	})
	return transport.FromReadWriteCloser(conn)
}

// Serve manufactures such a TPM and runs it behind a Unix socket until the test
// ends, for programs that open it by its path.
func Serve(t testing.TB, a *Authority) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is at most 107 bytes long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	manufacture(t, a, dir)
	socket, pidFile := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	// It goes to the background once its socket is open.
	cmd := exec.Command("swtpm", "socket", "--daemon", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--flags", "not-need-init,startup-clear", "--pid", "file="+pidFile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("swtpm: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Error(err)
			return
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return socket
}

func manufacture(t testing.TB, a *Authority, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	setup := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", "sha256,sha384", "--create-ek-cert",
		"--config", filepath.Join(a.dir, "setup.conf"), "--vmid", "test")
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
}

// socketPair makes a connection whose other end a process can inherit.
func socketPair(t testing.TB) (net.Conn, *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	own, other := os.NewFile(uintptr(fds[0]), "test"), os.NewFile(uintptr(fds[1]), "swtpm")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		t.Fatal(err)
	}
	return conn, other
}

// Boot extends a TPM's registers as a machine's boot according to p would, and returns
// the firmware's event log.
func Boot(t testing.TB, tpm transport.TPM, p *measurements.Prediction) (log []byte) {
	t.Helper()
	events := artifacttest.EventsOf(p)
	for i, e := range events {
		Extend(t, tpm, e.PCR, e.Digests)
		events[i].Type, events[i].Data = tcg.IPL, nil // other tools parse events' data by type, and it is not measured
	}
	return artifacttest.Log(measurements.Algorithms(), events...)
}

// Extend extends a register in both banks.
func Extend(t testing.TB, tpm transport.TPM, pcr int, d measurements.Digests) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: d[measurements.SHA256]}, {HashAlg: tpm2.TPMAlgSHA384, Digest: d[measurements.SHA384]},
		}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}
