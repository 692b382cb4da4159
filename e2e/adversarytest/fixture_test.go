// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package adversarytest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/e2e/adversarytest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	"github.com/constellation-os/constellation/measurements/predict"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// service is a JoinService in this process, with a control plane and a worker.
type service struct {
	*adversarytest.Cluster
	ring    *keys.Keyring
	objects *bindingstest.Memory
	server  *joinservice.Server
	policy  *joinservice.Policy
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{ring: keys.Generate(), objects: bindingstest.New()}
	s.Cluster = &adversarytest.Cluster{
		Audit: &adversarytest.Log{}, Image: image(t), Authority: swtpmtest.NewAuthority(t),
		ControlPlane: adversarytest.Node{Name: "control-plane-1", Disk: disk.NewUUID()},
		Worker:       adversarytest.Node{Name: "worker-1", Disk: disk.NewUUID()},
		Nodes: func(testing.TB) []string {
			names := slices.DeleteFunc(s.objects.Names(), func(name string) bool { return !strings.HasPrefix(name, "node-") })
			slices.Sort(names)
			return names
		},
	}
	var err error
	if s.ID, err = s.ring.ClusterID(); err != nil {
		t.Fatal(err)
	}
	own, worker := swtpmtest.Start(t, s.Authority), swtpmtest.Start(t, s.Authority)
	s.WorkerTPM = func(testing.TB) transport.TPM { return worker }
	issuer := s.boot(t, own)
	swtpmtest.Extend(t, own, measurements.ClusterPCR, measurements.ClusterDigests(s.ID[:]))
	s.writePolicy(t, issuer)
	s.start(t, issuer)
	s.bind(t, s.ControlPlane, policy.ControlPlane, issuer)
	s.bind(t, s.Worker, policy.Worker, s.identity(t, worker))
	return s
}

// image is what a machine measures that boots an image.
func image(t *testing.T) *measurements.Prediction {
	t.Helper()
	boot := artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()})
	p, err := predict.Predict(predict.Input{
		Disk: bytes.NewReader(boot), DiskSize: int64(len(boot)), Machine: measurements.QEMU(),
		FirmwareCode: artifacttest.FirmwareCode(), FirmwareVariables: artifacttest.FirmwareVariables(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// boot boots the image on a TPM.
func (s *service) boot(t *testing.T, device transport.TPM) *tpm.Issuer {
	t.Helper()
	log := swtpmtest.Boot(t, device, s.Image)
	i, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// identity makes an issuer for as long as it takes to ask who it is.
func (s *service) identity(t *testing.T, device transport.TPM) *tpm.Issuer {
	t.Helper()
	i, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	return i
}

// writePolicy accepts the image as "constellation local" does, on TPMs by the authority,
// and lists the control plane.
func (s *service) writePolicy(t *testing.T, controlPlane *tpm.Issuer) {
	t.Helper()
	until := time.Now().AddDate(0, 0, 365)
	set, err := accepted.FromPrediction(s.Image, "image", until)
	if err != nil {
		t.Fatal(err)
	}
	in, err := accepted.FromPrediction(s.Image.Initialized(s.ID[:]), "image", until)
	if err != nil {
		t.Fatal(err)
	}
	set.PCRs[measurements.ClusterPCR] = append(set.PCRs[measurements.ClusterPCR], in.PCRs[measurements.ClusterPCR]...)
	ca, err := x509.ParseCertificate(s.Authority.Certificate(t))
	if err != nil {
		t.Fatal(err)
	}
	id, err := controlPlane.Identity()
	if err != nil {
		t.Fatal(err)
	}
	s.Policy, err = policy.Draft{
		Measurements: []accepted.Set{*set}, Authorities: []*x509.Certificate{ca}, FirstComeWorkers: true,
		Inventory: []policy.Entry{{Identity: id, Grant: attestation.Grant{Name: s.ControlPlane.Name, Role: policy.ControlPlane}}},
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
}

// bind makes a machine a node that was there before.
func (s *service) bind(t *testing.T, n adversarytest.Node, role string, i *tpm.Issuer) {
	t.Helper()
	id, err := i.Identity()
	if err != nil {
		t.Fatal(err)
	}
	b := bindings.New(s.objects, nil)
	device, ticket := bindings.Device(id), bindings.NewTicket(time.Now(), time.Hour)
	if _, err := b.Bind(t.Context(), bindings.Node{Device: device, Name: n.Name, Role: role, Disk: n.Disk, KeyVersion: 1, Ticket: ticket}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Advance(t.Context(), device, ticket.ID, n.Disk, disk.Generation{}, disk.Generation{}.After()); err != nil {
		t.Fatal(err)
	}
}

// start runs the service on loopback until the test ends.
func (s *service) start(t *testing.T, issuer attestation.Issuer) {
	t.Helper()
	s.policy = joinservice.NewPolicy(tpm.Technology, func(d *policy.Document) (attestation.Verifier, error) {
		return tpm.NewVerifier(d, tpm.VerifierOptions{})
	}, nil)
	if err := s.policy.Load(s.Policy); err != nil {
		t.Fatal(err)
	}
	pki := t.TempDir()
	writeAuthority(t, pki)
	authority, err := joinservice.NewAuthority(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	limits := joinservice.DefaultLimits()
	limits.DeviceRate, limits.AddressRate, limits.AddressBurst = 1000, 1000, 1000
	s.server, err = joinservice.NewServer(joinservice.Options{
		Policy: s.policy, Keys: s.ring, Bindings: bindings.New(s.objects, nil), Authority: authority, Secrets: joinservice.Secrets{PKI: pki},
		Cluster: func() *parameters.Cluster {
			return &parameters.Cluster{
				Name: "cluster", Endpoint: "127.0.0.1:6443", PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
				Salt: s.ring.Salt(), Components: []byte(`{"components":[]}`), Sources: []string{"http://127.0.0.1:5000"},
			}
		},
		Limits: limits, Metrics: joinservice.NewMetrics(), Events: noEvents{}, Audit: slog.New(slog.NewJSONHandler(s.Audit, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	channel, err := atls.ServerMutual(issuer, []attestation.Verifier{s.policy}, atls.Options{QuotesPerSecond: 1000, QuoteBurst: 1000, Observe: s.server.Handshake})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Dial = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	server := grpc.NewServer(grpc.Creds(channel))
	api.RegisterJoinServiceServer(server, s.server)
	var calls sync.WaitGroup
	calls.Go(func() { server.Serve(l) })
	t.Cleanup(func() { server.Stop(); calls.Wait() })
}

type noEvents struct{}

func (noEvents) Record(joinservice.Event) {}

// writeAuthority makes the cluster's authority for certificates.
func writeAuthority(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"ca.crt": {Type: "CERTIFICATE", Bytes: der}, "ca.key": {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
