// SPDX-License-Identifier: Apache-2.0

package joinservice

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
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

const (
	diskA = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"
	diskB = "0b3e1b52-16a8-4c0e-8c6b-3f2b7f0f9d11"
	image = "image-1"
)

// safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// recorded keeps events.
type recorded struct {
	mu  sync.Mutex
	all []Event
}

func (r *recorded) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *recorded) last() Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return Event{}
	}
	return r.all[len(r.all)-1]
}

// identity is the endorsement key that the tests' judge sees in a device.
func identity(d *attestationtest.Device) attestation.Identity {
	id := sha256.Sum256(d.Public())
	return attestation.Identity{Kind: attestation.EndorsementKey, Value: id[:]}
}

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
		pcrs[measurements.ClusterPCR] = make(measurements.Digest, alg.Size())
		if cluster, err := hex.DecodeString(id); locked && err == nil {
			pcrs[measurements.ClusterPCR] = alg.Extend(pcrs[measurements.ClusterPCR], measurements.ClusterDigests(cluster)[alg])
		}
		banks[alg] = pcrs
	}
	return banks
}

// accept is a set of the policy that accepts an image, fresh or in one of the clusters.
func accept(image string, until time.Time, clusters ...string) accepted.Set {
	s := accepted.Set{Name: image, PCRs: map[int][]accepted.Value{}}
	add := func(pcr int, image string) {
		banks := registers(image)
		s.PCRs[pcr] = append(s.PCRs[pcr], accepted.Value{
			SHA256: banks[measurements.SHA256][pcr], SHA384: banks[measurements.SHA384][pcr], NotAfter: until,
		})
	}
	for _, pcr := range measurements.MandatoryPCRs() {
		add(pcr, image)
	}
	for _, cluster := range clusters {
		add(measurements.ClusterPCR, image+"@"+cluster)
	}
	return s
}

// judge is the verifier of a policy document for devices of attestationtest: who signs is
// that package's to find out, all else the document's. Every device that is not in the
// inventory has an authority that vouches for it, but those in unvouched.
type judge struct {
	f *fixture
	d *policy.Document
}

func (j *judge) Technology() attestation.Technology { return attestationtest.Technology }

func (j *judge) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	j.f.mu.Lock()
	signed := attestationtest.Accept(slices.Clone(j.f.devices)...)
	j.f.mu.Unlock()
	claims, err := signed.Verify(ctx, e, b, ask)
	if err != nil {
		return nil, err
	}
	id := attestation.Identity{Kind: attestation.EndorsementKey, Value: claims.Identities[0].Value}
	claims.Identities, claims.Grant, claims.PCRs = []attestation.Identity{id}, j.d.Granted(id), registers(claims.Image)
	if claims.Grant == nil && (len(j.d.Authorities) == 0 || j.f.unvouched[id.Value.String()]) {
		return nil, attestation.Refuse(attestation.ReasonIdentity, "nobody vouches for the device")
	}
	claims.Image, err = j.d.CheckPCRs(claims.PCRs, j.f.time())
	return claims, err
}

// fixture is a service on loopback.
type fixture struct {
	*Server
	address string
	log     *safeBuffer
	events  *recorded
	objects *bindingstest.Memory
	ring    *keys.Keyring
	cluster keys.ClusterID
	pki     string
	service *attestationtest.Device // the service's own
	ca      *x509.Certificate       // an authority of devices

	mu        sync.Mutex
	devices   []*attestationtest.Device
	unvouched map[string]bool
	offset    atomic.Int64 // of the clock
}

func (f *fixture) time() time.Time { return time.Now().Add(time.Duration(f.offset.Load())) }

func (f *fixture) device(image string) *attestationtest.Device {
	d := attestationtest.NewDevice(image)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices = append(f.devices, d)
	return d
}

// inventory grants devices names and roles.
func entry(d *attestationtest.Device, name, role string) policy.Entry {
	return policy.Entry{Identity: identity(d), Grant: attestation.Grant{Name: name, Role: role}}
}

// document is a policy's.
func (f *fixture) document(t testing.TB, firstCome bool, sets []accepted.Set, inventory ...policy.Entry) []byte {
	t.Helper()
	data, err := policy.Draft{Measurements: sets, Authorities: []*x509.Certificate{f.ca}, Inventory: inventory}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if firstCome {
		data = append([]byte(`{"first_come": ["worker"],`), bytes.TrimPrefix(data, []byte("{"))...)
	}
	return data
}

func (f *fixture) load(t testing.TB, data []byte) {
	t.Helper()
	if err := f.Policy.Load(data); err != nil {
		t.Fatal(err)
	}
}

// usual accepts the image, with the clusters' registers.
func (f *fixture) usual() []accepted.Set {
	return []accepted.Set{accept(image, time.Time{}, f.cluster.String())}
}

func generous() Limits {
	return Limits{DeviceRate: 1e6, DeviceBurst: 1e6, AddressRate: 1e6, AddressBurst: 1e6, QuoteRate: 1e6, QuoteBurst: 1e6, Connections: 4096, Requests: 64}
}

// start runs a service; change may change its options.
func start(t testing.TB, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{
		log: &safeBuffer{}, events: &recorded{}, objects: bindingstest.New(), ring: keys.Generate(),
		service: attestationtest.NewDevice("control plane"), unvouched: map[string]bool{}, pki: t.TempDir(),
	}
	var err error
	if f.cluster, err = f.ring.ClusterID(); err != nil {
		t.Fatal(err)
	}
	f.ca = writePKI(t, f.pki)
	f.devices = []*attestationtest.Device{}
	master := filepath.Join(t.TempDir(), "master.json")
	if err := f.ring.Create(master); err != nil {
		t.Fatal(err)
	}
	authority, err := NewAuthority(filepath.Join(f.pki, "ca.crt"), filepath.Join(f.pki, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Policy:   NewPolicy(attestationtest.Technology, func(d *policy.Document) (attestation.Verifier, error) { return &judge{f, d}, nil }, f.time),
		Keys:     f.ring,
		Bindings: bindings.New(f.objects, f.time), Authority: authority,
		Secrets: Secrets{PKI: f.pki, MasterSecret: master},
		Cluster: func() *parameters.Cluster {
			return &parameters.Cluster{
				Name: "example", Endpoint: "10.0.0.1:6443", APIServerNames: []string{"api.example.org"},
				PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
				Salt: f.ring.Salt(), Components: []byte(`{"components":[]}`), Sources: []string{"http://10.0.0.1:5000"},
			}
		},
		Limits: generous(), Metrics: NewMetrics(), Events: f.events, Audit: slog.New(slog.NewJSONHandler(f.log, nil)), Now: f.time,
	}
	if change != nil {
		change(&o)
	}
	if f.Server, err = NewServer(o); err != nil {
		t.Fatal(err)
	}
	f.serve(t)
	return f
}

func (f *fixture) serve(t testing.TB) {
	t.Helper()
	channel, err := atls.ServerMutual(f.service, []attestation.Verifier{f.Policy}, atls.Options{
		QuotesPerSecond: 1e6, QuoteBurst: 1e6, Observe: f.Handshake,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(channel))
	api.RegisterJoinServiceServer(server, f.Server)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); wg.Wait() })
}

// connect is the channel of a machine that trusts the service's.
func (f *fixture) connect(t testing.TB, d *attestationtest.Device) api.JoinServiceClient {
	t.Helper()
	channel, err := atls.ClientMutual(d, []attestation.Verifier{attestationtest.Accept(f.service)}, atls.Options{QuotesPerSecond: 1e6, QuoteBurst: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, f.address, channel)
}

func connect(t testing.TB, address string, channel credentials.TransportCredentials) api.JoinServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(channel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewJoinServiceClient(conn)
}

// lastAudit is the last line of the audit log.
func (f *fixture) lastAudit(t testing.TB) map[string]any {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(f.log.String()), "\n")
	var record map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &record); err != nil {
		t.Fatalf("audit log: %v: %s", err, lines[len(lines)-1])
	}
	return record
}

// wait is for what happens a moment after the caller has its answer.
func (f *fixture) wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func refusalOf(err error) (codes.Code, *api.Refusal) {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if r, ok := d.(*api.Refusal); ok {
			return st.Code(), r
		}
	}
	return st.Code(), &api.Refusal{}
}

// wantRefusal: the caller, the audit log and the event say the same.
func (f *fixture) wantRefusal(t testing.TB, err error, code codes.Code, reason string) {
	t.Helper()
	got, r := refusalOf(err)
	if got != code || r.Reason != reason || r.Advice == "" {
		t.Errorf("the caller gets %v, reason %q, advice %q (%v), want %v, reason %q", got, r.Reason, r.Advice, err, code, reason)
	}
	if line := f.lastAudit(t); line["verdict"] != "refused" || line["reason"] != reason {
		t.Errorf("audit: %v, want reason %q", line, reason)
	}
	if f.events == nil { // the API server has them
		return
	}
	if e := f.events.last(); !e.Warning || !strings.HasPrefix(e.Note, reason+": ") {
		t.Errorf("event: %+v, want reason %q", e, reason)
	}
}

// metric reads one, by its name without the prefix and with its labels.
func metric(t testing.TB, m *Metrics, name string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if text, ok := strings.CutPrefix(line, "constellation_joinservice_"+name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// writePKI makes the files of a control plane, and returns their authority.
func writePKI(t testing.TB, dir string) *x509.Certificate {
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
	for _, path := range controlPlaneFiles {
		content := []byte("content of " + path)
		switch path {
		case "ca.crt":
			content = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		case "ca.key":
			content = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(path)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca
}

// request makes a certificate request.
func request(t testing.TB, template *x509.CertificateRequest) []byte {
	t.Helper()
	return requestOf(t, template, elliptic.P256())
}

func requestOf(t testing.TB, template *x509.CertificateRequest, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
