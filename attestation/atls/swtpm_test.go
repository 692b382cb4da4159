// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package atls

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net"
	"testing"

	"github.com/constellation-os/constellation/attestation"
	document "github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// machineTPM is a TPM of a machine that booted one kernel, and its issuer.
func machineTPM(t testing.TB, a *swtpmtest.Authority) *tpm.Issuer {
	t.Helper()
	device, digests := swtpmtest.Start(t, a), measurements.Sum([]byte("kernel"))
	swtpmtest.Extend(t, device, 11, digests)
	log := artifacttest.Log(measurements.Algorithms(), artifacttest.LogEvent{PCR: 11, Type: tcg.IPL, Digests: digests})
	i, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// kernelPolicy accepts that machine, endorsed by the authority.
func kernelPolicy(t testing.TB, a *swtpmtest.Authority) verifiers {
	t.Helper()
	pcrs := map[int]any{}
	for _, pcr := range measurements.MandatoryPCRs() {
		pcrs[pcr] = []any{map[string]any{"sha256": measurements.SHA256.Zero()}}
	}
	pcrs[11] = []any{map[string]any{"sha256": measurements.SHA256.Extend(measurements.SHA256.Zero(), measurements.Sum([]byte("kernel"))[measurements.SHA256])}}
	data, err := json.Marshal(map[string]any{
		"version": 1, "technologies": []string{"tpm"},
		"measurements": map[string]any{"version": 1, "accepted": []any{map[string]any{"name": "kernel", "pcrs": pcrs}}},
		"endorsement": map[string]any{"authorities": []string{
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate(t)})),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := document.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.NewVerifier(d, tpm.VerifierOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return verifiers{v}
}

// TestSoftwareTPMs: two machines prove themselves to each other, and a relay
// between them that holds the server's TLS key does not pass for either. (V3)
func TestSoftwareTPMs(t *testing.T) {
	a, b := swtpmtest.NewAuthority(t), swtpmtest.NewAuthority(t)
	node, join, stranger := machineTPM(t, a), machineTPM(t, a), machineTPM(t, b)
	accept := kernelPolicy(t, a)
	atNode, atJoin := must(ClientMutual(node, accept, Options{})), must(ServerMutual(join, accept, Options{}))

	c, s := meet(t, atNode, atJoin)
	if c.err != nil || s.err != nil {
		t.Fatalf("client: %v, server: %v", c.err, s.err)
	}
	if c.info.claims.Identities[0].Value.String() == s.info.claims.Identities[0].Value.String() || c.info.claims.Image != "kernel" {
		t.Errorf("claims are %+v and %+v", c.info.claims, s.info.claims)
	}

	t.Run("V3: a relay with the TLS key", func(t *testing.T) {
		stolen, err := ephemeralCertificate()
		if err != nil {
			t.Fatal(err)
		}
		prove := must(ServerProve(join, Options{}))
		prove.certificate = func() (tls.Certificate, error) { return stolen, nil }
		clientEnd, front := net.Pipe()
		back, serverEnd := net.Pipe()
		c, s := start(t.Context(), must(ClientVerify(accept, Options{})), client, clientEnd), start(t.Context(), prove, server, serverEnd)
		stop := relay(t, front, back, stolen)
		atClient, atServer := <-c, <-s
		stop()
		wantRefusal(t, "client", atClient, attestation.ReasonBinding, false)
		wantRefusal(t, "server", atServer, attestation.ReasonBinding, true)
	})
	t.Run("V22: a flood of strangers", func(t *testing.T) { flood(t, join, accept) })
	t.Run("V19: a false JoinService with a real TPM", func(t *testing.T) {
		c, s := meet(t, atNode, must(ServerMutual(stranger, kernelPolicy(t, a), Options{})))
		wantRefusal(t, "client", c, attestation.ReasonIdentity, false)
		wantRefusal(t, "server", s, attestation.ReasonIdentity, true)
	})
}

// BenchmarkMutualHandshakeOfTPMs has all that a join has but the network.
func BenchmarkMutualHandshakeOfTPMs(b *testing.B) {
	a := swtpmtest.NewAuthority(b)
	node, join := machineTPM(b, a), machineTPM(b, a)
	accept := kernelPolicy(b, a)
	benchmarkMutual(b, node, join, accept, accept)
}
