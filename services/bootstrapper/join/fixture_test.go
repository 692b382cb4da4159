// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
	"github.com/constellation-os/constellation/services/provider"
)

// registers are the PCRs of a machine that booted an image: "IMAGE", or "IMAGE@ID" once
// it belongs to the cluster with that identity.
func registers(image string) measurements.Banks {
	image, id, locked := strings.Cut(image, "@")
	banks := measurements.Banks{}
	for _, alg := range measurements.Algorithms() {
		pcrs := measurements.PCRs{}
		for pcr := range measurements.PCRCount {
			pcrs[pcr] = measurements.Sum([]byte{byte(pcr)}, []byte(image))[alg]
		}
		pcrs[measurements.ClusterPCR] = alg.Zero()
		if cluster, err := hex.DecodeString(id); locked && err == nil {
			pcrs[measurements.ClusterPCR] = alg.Extend(alg.Zero(), measurements.ClusterDigests(cluster)[alg])
		}
		banks[alg] = pcrs
	}
	return banks
}

// cluster is one with a real JoinService, whose API server and KeyService are in memory.
type cluster struct {
	t        *testing.T
	ring     *keys.Keyring
	id       keys.ClusterID
	service  *attestationtest.Device
	policy   *joinservice.Policy
	bindings *bindings.Bindings
	pki      string
	ca       *x509.Certificate
	server   *joinservice.Server
	log      *bytes.Buffer
	// observe, if set, is told of handshakes.
	observe func(atls.Outcome)

	mu      sync.Mutex
	devices []*attestationtest.Device
}

const image = "image-1"

func newCluster(t *testing.T) *cluster {
	c := emptyCluster(t)
	c.service = c.device(image + "@" + c.id.String())
	c.start(joinservice.NewPolicy(attestationtest.Technology, c.judge, nil), c.document(true))
	return c
}

// emptyCluster has no service yet.
func emptyCluster(t *testing.T) *cluster {
	c := &cluster{t: t, ring: keys.Generate(), pki: t.TempDir(), bindings: bindings.New(bindingstest.New(), nil), log: &bytes.Buffer{}}
	var err error
	if c.id, err = c.ring.ClusterID(); err != nil {
		t.Fatal(err)
	}
	c.ca = writePKI(t, c.pki)
	return c
}

// start makes the service, with a policy.
func (c *cluster) start(p *joinservice.Policy, document []byte) {
	t := c.t
	t.Helper()
	c.policy = p
	if err := c.policy.Load(document); err != nil {
		t.Fatal(err)
	}
	authority, err := joinservice.NewAuthority(filepath.Join(c.pki, "ca.crt"), filepath.Join(c.pki, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	master := filepath.Join(t.TempDir(), "master.json")
	if err := c.ring.Create(master); err != nil {
		t.Fatal(err)
	}
	limits := joinservice.DefaultLimits()
	limits.DeviceRate, limits.DeviceBurst = 1000, 1000
	c.server, err = joinservice.NewServer(joinservice.Options{
		Policy: c.policy, Keys: c.ring, Bindings: c.bindings, Authority: authority,
		Secrets: joinservice.Secrets{PKI: c.pki, MasterSecret: master},
		Cluster: func() *parameters.Cluster {
			return &parameters.Cluster{
				Name: "cluster", Endpoint: "10.0.0.1:6443", PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
				Salt: c.ring.Salt(), Components: []byte(`{"components":[]}`), Sources: []string{"http://10.0.0.1:5000"},
			}
		},
		Limits: limits, Metrics: joinservice.NewMetrics(), Events: noEvents{}, Audit: slog.New(slog.NewJSONHandler(c.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
}

type noEvents struct{}

func (noEvents) Record(joinservice.Event) {}

// serve runs the service at an address of loopback, and returns how to stop it.
func (c *cluster) serve(address netip.Addr, port uint16, device attestation.Issuer) (at netip.AddrPort, stop func()) {
	c.t.Helper()
	channel, err := atls.ServerMutual(device, []attestation.Verifier{c.policy}, atls.Options{QuotesPerSecond: 1e6, QuoteBurst: 1e6, Observe: c.observe})
	if err != nil {
		c.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(address, port).String())
	if err != nil {
		c.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(channel))
	api.RegisterJoinServiceServer(server, c.server)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(listener) })
	var once sync.Once
	stop = func() { once.Do(func() { server.Stop(); wg.Wait() }) }
	c.t.Cleanup(stop)
	return netip.MustParseAddrPort(listener.Addr().String()), stop
}

func (c *cluster) device(image string) *attestationtest.Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := attestationtest.NewDevice(image)
	c.devices = append(c.devices, d)
	return d
}

func identityOf(d *attestationtest.Device) attestation.Identity {
	id := sha256.Sum256(d.Public())
	return attestation.Identity{Kind: attestation.EndorsementKey, Value: id[:]}
}

func entry(d *attestationtest.Device, name, role string) policy.Entry {
	return policy.Entry{Identity: identityOf(d), Grant: attestation.Grant{Name: name, Role: role}}
}

// document is the cluster's policy: it accepts the image, fresh and in the cluster.
func (c *cluster) document(firstCome bool, inventory ...policy.Entry) []byte {
	c.t.Helper()
	set := accepted.Set{Name: image, PCRs: map[int][]accepted.Value{}}
	add := func(pcr int, image string) {
		banks := registers(image)
		set.PCRs[pcr] = append(set.PCRs[pcr], accepted.Value{SHA256: banks[measurements.SHA256][pcr], SHA384: banks[measurements.SHA384][pcr]})
	}
	for _, pcr := range measurements.MandatoryPCRs() {
		add(pcr, image)
	}
	add(measurements.ClusterPCR, image+"@"+c.id.String())
	data, err := policy.Draft{Measurements: []accepted.Set{set}, Authorities: []*x509.Certificate{c.ca}, Inventory: inventory}.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	if firstCome {
		data = append([]byte(`{"first_come": ["worker"],`), bytes.TrimPrefix(data, []byte("{"))...)
	}
	return data
}

// judge is the verifier of a policy for devices of attestationtest: who signs is that
// package's to find out, all else the document's.
func (c *cluster) judge(d *policy.Document) (attestation.Verifier, error) { return &judge{c, d}, nil }

type judge struct {
	c *cluster
	d *policy.Document
}

func (j *judge) Technology() attestation.Technology { return attestationtest.Technology }

func (j *judge) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	j.c.mu.Lock()
	signed := attestationtest.Accept(append([]*attestationtest.Device(nil), j.c.devices...)...)
	j.c.mu.Unlock()
	claims, err := signed.Verify(ctx, e, b, ask)
	if err != nil {
		return nil, err
	}
	id := attestation.Identity{Kind: attestation.EndorsementKey, Value: claims.Identities[0].Value}
	claims.Identities, claims.Grant, claims.PCRs = []attestation.Identity{id}, j.d.Granted(id), registers(claims.Image)
	claims.Image, err = j.d.CheckPCRs(claims.PCRs, time.Now())
	return claims, err
}

// surroundings are a [provider.Provider].
type surroundings struct {
	mu       sync.Mutex
	self     provider.Self
	peers    []provider.Peer
	endpoint string
	cluster  *provider.Cluster
}

func (s *surroundings) Self(context.Context) (provider.Self, error)    { return s.self, nil }
func (s *surroundings) Peers(context.Context) ([]provider.Peer, error) { return s.peers, nil }
func (s *surroundings) Endpoint(context.Context) (string, error)       { return s.endpoint, nil }
func (s *surroundings) Cluster(context.Context) (*provider.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster, nil
}

// asker is that of a machine whose surroundings name the cluster, with control planes at
// these addresses, which all have one port.
func (c *cluster) asker(d *attestationtest.Device, at ...netip.AddrPort) *Asker {
	s := &surroundings{
		self:     provider.Self{Name: "worker-1", Role: provider.Worker},
		endpoint: "127.0.0.99:6443", // nobody is there
		cluster:  &provider.Cluster{ID: c.id, Policy: c.document(true)},
	}
	port := 1
	for i, a := range at {
		s.peers = append(s.peers, provider.Peer{Name: "control-plane-" + string(rune('1'+i)), Role: provider.ControlPlane, Address: a.Addr()})
		port = int(a.Port())
	}
	s.peers = append(s.peers, provider.Peer{Name: "worker-2", Role: provider.Worker, Address: netip.MustParseAddr("127.0.0.98")})
	return &Asker{Provider: s, Issuer: d, Judge: c.judge, Port: port}
}

// writePKI makes the files of a control plane, and returns their authority.
func writePKI(t *testing.T, dir string) *x509.Certificate {
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
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"ca.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}
	for _, path := range []string{"sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"} {
		files[path] = []byte("content of " + path)
	}
	for path, content := range files {
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca
}
