// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package tpm

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/measurements"
)

// localCA is a folder with swtpm_setup's certificate authority.
func localCA(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"setup.conf":      "create_certs_tool=swtpm_localca\ncreate_certs_tool_config=" + dir + "/localca.conf\ncreate_certs_tool_options=" + dir + "/localca.options\n",
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", dir),
		"localca.options": "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// issuerCertificate is what signs endorsement certificates, in DER.
func issuerCertificate(t *testing.T, ca string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(ca, "issuercert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no certificate")
	}
	return block.Bytes
}

// startTPM manufactures a TPM and runs it.
func startTPM(t *testing.T, ca string) transport.TPM {
	t.Helper()
	state := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	setup := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", "sha256,sha384", "--create-ek-cert",
		"--config", filepath.Join(ca, "setup.conf"), "--vmid", "test")
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	socket := filepath.Join(state, "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	file, err := peer.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--fd", "3", "--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{file}
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	peer.Close()
	listener.Close()
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

// bootOn extends a TPM's registers as a boot would.
func bootOn(t *testing.T, tpm transport.TPM, p *measurements.Prediction) []byte {
	t.Helper()
	o := machine(p)
	extend := func(pcr int, d measurements.Digests) {
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
	for _, e := range p.Events {
		extend(e.PCR, e.Digests)
	}
	aggregate, err := measurements.BootAggregate(o.PCRs[measurements.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	extend(10, aggregate)
	return o.EventLog
}

func issuerOn(t *testing.T, tpm transport.TPM, log []byte) *Issuer {
	t.Helper()
	i, err := NewIssuer(tpm, IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

func TestSoftwareTPM(t *testing.T) {
	ca := localCA(t)
	p := boot("good")
	first, second := startTPM(t, ca), startTPM(t, ca)
	one := issuerOn(t, first, bootOn(t, first, p))
	two := issuerOn(t, second, bootOn(t, second, p))
	now = time.Now() // swtpm_localca certifies from today on
	byAuthority := verifier(t, policyOf(t, p, [][]byte{issuerCertificate(t, ca)}), p)
	b := attestation.Binding{1}

	claims, err := judge(t, byAuthority, one, b)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Image != "image" || len(claims.PCRs) != 2 || claims.Boot.Restarts != 0 || !claims.Properties.Proven(attestation.PropertyResident) {
		t.Errorf("claims are %+v", claims)
	}

	t.Run("V7: a second honest TPM with the same registers", func(t *testing.T) {
		v := verifier(t, policyOf(t, p, nil, claims.Identities...), p)
		accepted, err := judge(t, v, one, b)
		if err != nil || accepted.Grant == nil || accepted.Grant.Name != "node-1" {
			t.Errorf("the listed TPM: %+v, %v", accepted, err)
		}
		wantRefusal(t, v, two, attestation.ReasonIdentity)
	})
	t.Run("V7: an attestation key from another TPM", func(t *testing.T) {
		wantRefusal(t, byAuthority, &spliced{Responder: two, t: t, claim: func(m *api.TPM) {
			m.EndorsementKey, m.EndorsementCertificates = one.ek.public, one.certificates
		}}, attestation.ReasonChallenge)
	})
	t.Run("V4: an old quote", func(t *testing.T) {
		e, err := one.Issue(t.Context(), attestation.Binding{9})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := byAuthority.Verify(t.Context(), e, b, nil); attestation.ReasonOf(err) != attestation.ReasonBinding {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an authority of somebody else", func(t *testing.T) {
		wantRefusal(t, verifier(t, policyOf(t, p, [][]byte{newCA(t).der}), p), one, attestation.ReasonIdentity)
	})
	t.Run("another command line", func(t *testing.T) {
		v := verifier(t, policyOf(t, boot("evil"), [][]byte{issuerCertificate(t, ca)}), boot("evil"))
		_, err := judge(t, v, one, b)
		if attestation.ReasonOf(err) != attestation.ReasonMeasurements {
			t.Fatalf("got %v", err)
		}
		if c := Explanation(err); c == nil || c.Findings[0].Component != measurements.ComponentCmdline {
			t.Errorf("explained as %+v", c)
		}
	})
	t.Run("a register extended after boot", func(t *testing.T) {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 15, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(second)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, byAuthority, two, attestation.ReasonMeasurements)
	})
	t.Run("an ECC endorsement key", func(t *testing.T) {
		other := startTPM(t, ca)
		i := issuerOn(t, other, bootOn(t, other, p))
		if err := i.flush(i.ek); err != nil {
			t.Fatal(err)
		}
		if i.ek, err = i.createPrimary(tpm2.ECCEKTemplate); err != nil {
			t.Fatal(err)
		}
		key, err := parseEndorsementKey(i.ek.public)
		if err != nil {
			t.Fatal(err)
		}
		id, err := identity(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := judge(t, verifier(t, policyOf(t, p, nil, id), p), i, b); err != nil {
			t.Error(err)
		}
	})
	t.Run("a closed issuer", func(t *testing.T) {
		if err := two.Close(); err != nil {
			t.Error(err)
		}
		if _, err := two.Issue(t.Context(), b); err == nil {
			t.Error("a closed issuer issues")
		}
	})
}
