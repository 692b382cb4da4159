// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/e2e/tamper"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
)

// answerDeadline bounds how long a machine that has reported its measurements
// takes until its bootstrapper answers.
const answerDeadline = 2 * time.Minute

// owner is the other end of the channel: somebody who knows what the image must
// measure and whose TPMs are to be believed.
type owner struct {
	network  *network.Network
	verifier attestation.Verifier
	policy   []byte
}

// newOwner trusts what p predicts, on TPMs that the authority in the folder
// certified.
func newOwner(t *testing.T, n *network.Network, p *measurements.Prediction, authority string) *owner {
	t.Helper()
	set, err := accepted.FromPrediction(p, "image", time.Now().AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(read(t, filepath.Join(authority, "issuercert.pem")))
	if block == nil {
		t.Fatal("the authority's certificate is not in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	document, err := policy.Draft{Measurements: []accepted.Set{*set}, Authorities: []*x509.Certificate{certificate}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.NewVerifier(d, tpm.VerifierOptions{Predictions: []*measurements.Prediction{p}})
	if err != nil {
		t.Fatal(err)
	}
	return &owner{n, v, document}
}

// ask verifies the machine and asks for its status. It returns how the handshake
// ended; the status is nil if that failed.
func (o *owner) ask(t *testing.T) (*api.StatusResponse, atls.Outcome) {
	t.Helper()
	outcomes := make(chan atls.Outcome, 1)
	channel, err := atls.ClientVerify([]attestation.Verifier{o.verifier}, atls.Options{Observe: func(o atls.Outcome) {
		select {
		case outcomes <- o:
		default: // gRPC tries again
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(channel),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			address, ok := o.network.Address(machine.DefaultMACAddress)
			if !ok {
				return nil, errors.New("the machine has no address yet")
			}
			return o.network.Dial(ctx, netip.AddrPortFrom(address, bootstrapper.Port))
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), answerDeadline)
	defer cancel()
	type answer struct {
		status *api.StatusResponse
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		// Waits through the time in which the machine has no address.
		s, err := api.NewBootstrapperClient(conn).Status(ctx, &api.StatusRequest{}, grpc.WaitForReady(true))
		answers <- answer{s, err}
	}()
	select {
	case outcome := <-outcomes:
		if outcome.Err != nil {
			cancel()
			<-answers
			return nil, outcome
		}
		a := <-answers
		if a.err != nil {
			t.Fatalf("the channel was attested, and the call failed: %v", a.err)
		}
		return a.status, outcome
	case a := <-answers:
		t.Fatalf("no handshake within %v: %v", answerDeadline, a.err)
	}
	return nil, atls.Outcome{}
}

// bootOn starts a machine on a network, and waits for its report.
func bootOn(t *testing.T, n *network.Network, authority string, c machine.Config) *machine.Machine {
	t.Helper()
	c.Network, c.TPM.AuthorityDir = n, authority
	return mustBoot(t, c)
}

func newNetwork(t *testing.T) *network.Network {
	t.Helper()
	n, err := network.New(network.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// TestAttestedChannel: a machine proves to its owner, over the network, which image
// it booted and by which TPM, before the first byte of any call.
func TestAttestedChannel(t *testing.T) {
	authority, n := t.TempDir(), newNetwork(t)
	bootOn(t, n, authority, config(t))
	status, outcome := newOwner(t, n, reference(t), authority).ask(t)
	if outcome.Err != nil {
		t.Fatalf("the machine was refused: %v", outcome.Err)
	}
	if status.State != api.State_STATE_WAITING || status.Image.GetFlavour() != "qemu" {
		t.Errorf("status is %v", status)
	}
	claims := outcome.Claims
	if claims.Image != "image" || claims.Identities[0].Kind != attestation.EndorsementKey || claims.Boot.Restarts != 0 {
		t.Errorf("claims are %+v", claims)
	}
	if missing := claims.Properties.Missing(); !slices.Equal(missing, []attestation.Property{attestation.PropertyConfidential}) {
		t.Errorf("not proven: %v", missing)
	}
	if diff := cmp.Diff(reference(t).PCRs[measurements.SHA256][11].String(), claims.PCRs[measurements.SHA256][11].String()); diff != "" {
		t.Errorf("PCR 11 (-predicted +quoted): %s", diff)
	}

	t.Run("V7: a TPM that another authority certified", func(t *testing.T) {
		// The same machine, seen by an owner whose authority has certified another TPM.
		other := t.TempDir()
		certify(t, other)
		_, outcome := newOwner(t, n, reference(t), other).ask(t)
		if attestation.ReasonOf(outcome.Err) != attestation.ReasonIdentity {
			t.Errorf("the handshake ended with %v", outcome.Err)
		}
	})
}

// certify makes an authority by having it certify a TPM that is never used.
func certify(t *testing.T, authority string) {
	t.Helper()
	c := config(t)
	c.TPM.AuthorityDir = authority
	m, err := machine.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	m.Stop()
}

// TestAnotherCommandLineIsRefused: the same owner refuses the same machine when it
// was booted with another command line, and is told which event differs.
func TestAnotherCommandLineIsRefused(t *testing.T) {
	authority, n := t.TempDir(), newNetwork(t)
	c := config(t)
	disk, err := tamper.CopyDisk(c.Disk, filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.CommandLine("flavour=qemu", "flavour=QEMU"); err != nil {
		t.Fatal(err)
	}
	c.Disk = disk.Path
	bootOn(t, n, authority, c)
	_, outcome := newOwner(t, n, reference(t), authority).ask(t)
	if attestation.ReasonOf(outcome.Err) != attestation.ReasonMeasurements {
		t.Fatalf("the handshake ended with %v, want a refusal for measurements", outcome.Err)
	}
	explanation := tpm.Explanation(outcome.Err)
	if explanation == nil {
		t.Fatal("the refusal has no explanation")
	}
	want := []finding{
		{4, measurements.ReasonDigest, measurements.ComponentUKI, true},
		{9, measurements.ReasonDigest, measurements.ComponentCmdline, true},
		{11, measurements.ReasonDigest, measurements.ComponentCmdline, true},
	}
	if diff := cmp.Diff(want, findings(t, explanation)); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
}
