// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

func join(uuid, name string, role api.Role) *api.IssueJoinTicketRequest {
	return &api.IssueJoinTicketRequest{DiskUuid: uuid, NodeName: name, Role: role}
}

// key is the key of a disk in one version.
func (f *fixture) key(t testing.TB, uuid string, version keys.Version) []byte {
	t.Helper()
	k, err := keys.Get[keys.StateDisk](t.Context(), f.ring, uuid, disk.KeySize, version)
	if err != nil {
		t.Fatal(err)
	}
	return k.Copy()
}

// verify checks a certificate of node name's kubelet as a client.
func (f *fixture) verify(t testing.TB, der []byte, name string) {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(f.ca)
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if c.Subject.String() != "CN=system:node:"+name+",O=system:nodes" || c.IsCA || len(c.ExtKeyUsage) != 1 {
		t.Errorf("a certificate for %s, for %v", c.Subject, c.ExtKeyUsage)
	}
	if len(c.DNSNames)+len(c.IPAddresses) != 0 || c.NotAfter.After(time.Now().Add(certificateLife)) {
		t.Errorf("until %v, %v, %v", c.NotAfter, c.DNSNames, c.IPAddresses)
	}
}

func TestJoin(t *testing.T) {
	f := start(t, nil)
	worker, control := f.device(image), f.device(image)
	f.load(t, f.document(t, false, f.usual(), entry(worker, "worker-1", policy.Worker), entry(control, "control-1", policy.ControlPlane)))

	req := join(diskA, "worker-1", api.Role_ROLE_WORKER)
	req.CertificateRequest = request(t, &x509.CertificateRequest{Subject: subject("worker-1")})
	got, err := f.connect(t, worker).IssueJoinTicket(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got.NodeName != "worker-1" || got.Role != api.Role_ROLE_WORKER || got.ControlPlane != nil {
		t.Errorf("%s as %v, with files of the control plane: %v", got.NodeName, got.Role, got.ControlPlane != nil)
	}
	if !bytes.Equal(got.Ticket.StateDiskKey, f.key(t, diskA, 1)) {
		t.Error("another key")
	}
	measurement, err := keys.Get[keys.Measurement](t.Context(), f.ring, keys.MeasurementID, keys.MeasurementSize, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Ticket.MeasurementSecret, measurement.Copy()) || !bytes.Equal(got.Ticket.Salt, f.ring.Salt()) {
		t.Error("another cluster's identity would follow")
	}
	f.verify(t, got.Certificate, "worker-1")
	if got.Cluster.Name != "example" || got.Cluster.PodNetwork != "10.244.0.0/16" || got.Cluster.ServiceNetwork != "10.96.0.0/12" || len(got.Cluster.ApiServerNames) != 1 {
		t.Errorf("cluster: %v", got.Cluster)
	}
	if got.Cluster.Endpoint != "10.0.0.1:6443" || len(got.Cluster.ComponentSet) == 0 || len(got.Cluster.Sources) != 1 || !strings.HasPrefix(got.Cluster.AuthorityHash, "sha256:") {
		t.Errorf("cluster: %v", got.Cluster)
	}
	line := f.lastAudit(t)
	for key, want := range map[string]any{"msg": kindJoin, "verdict": "granted", "name": "worker-1", "role": "worker", "disk": diskA, "image": image,
		"device": bindings.Device(identity(worker)), "address": "127.0.0.1", "policy": f.Policy.Digest().String()} {
		if line[key] != want {
			t.Errorf("audit: %s is %v, want %v", key, line[key], want)
		}
	}

	got, err = f.connect(t, control).IssueJoinTicket(t.Context(), join(diskB, "", api.Role_ROLE_CONTROL_PLANE))
	if err != nil {
		t.Fatal(err)
	}
	if got.NodeName != "control-1" || got.Role != api.Role_ROLE_CONTROL_PLANE || got.ControlPlane == nil {
		t.Fatalf("%s as %v", got.NodeName, got.Role)
	}
	for _, file := range got.ControlPlane.Files {
		want, err := os.ReadFile(filepath.Join(f.pki, file.Path))
		if err != nil || !bytes.Equal(want, file.Content) {
			t.Errorf("%s: %v", file.Path, err)
		}
	}
	if ring, err := keys.Parse(got.ControlPlane.MasterSecret); err != nil {
		t.Error(err)
	} else if id, err := ring.ClusterID(); err != nil || id != f.cluster {
		t.Errorf("the master secret is of cluster %v, %v", id, err)
	}
}

// TestRefused: each refusal, with its exact reason at the caller, in the audit log, and
// in the event. Nothing is bound by any of them.
func TestRefused(t *testing.T) {
	other := keys.ClusterID{1, 2, 3}
	type machine struct{ client api.JoinServiceClient }
	for _, tc := range []struct {
		name   string
		image  string // of the machine, the accepted one if empty
		grant  string // role of the machine in the inventory under the name node-1; not listed if empty
		free   bool   // unlisted workers are let in
		req    *api.IssueJoinTicketRequest
		code   codes.Code
		reason string
	}{
		{name: "V17 files of the control plane, for a worker", grant: policy.Worker,
			req: join(diskA, "node-1", api.Role_ROLE_CONTROL_PLANE), code: codes.PermissionDenied, reason: "role"},
		{name: "V17 files of the control plane, for an unlisted worker", free: true,
			req: join(diskA, "node-9", api.Role_ROLE_CONTROL_PLANE), code: codes.PermissionDenied, reason: "role"},
		{name: "V17 another role than granted, if a lesser one", grant: policy.ControlPlane,
			req: join(diskA, "node-1", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "role"},
		{name: "V17 another's name", grant: policy.Worker,
			req: join(diskA, "listed", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "name"},
		{name: "V17 a name that nobody has", grant: policy.Worker,
			req: join(diskA, "node-2", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "name"},
		{name: "V17 an unlisted worker under a name of the inventory", free: true,
			req: join(diskA, "listed", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "name"},
		{name: "an unlisted worker where only the inventory may join",
			req: join(diskA, "node-9", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "not-listed"},
		{name: "an unlisted worker without a name", free: true,
			req: join(diskA, "", api.Role_ROLE_WORKER), code: codes.InvalidArgument, reason: "request"},
		{name: "an unlisted worker with a name that is none", free: true,
			req: join(diskA, "Node.1", api.Role_ROLE_WORKER), code: codes.InvalidArgument, reason: "request"},
		{name: "a disk without a name", grant: policy.Worker,
			req: join("", "node-1", api.Role_ROLE_WORKER), code: codes.InvalidArgument, reason: "request"},
		{name: "a disk whose name leads elsewhere", grant: policy.Worker,
			req: join("../measurement/cluster", "node-1", api.Role_ROLE_WORKER), code: codes.InvalidArgument, reason: "request"},
		{name: "a disk's name in upper case", grant: policy.Worker,
			req: join(strings.ToUpper(diskA), "node-1", api.Role_ROLE_WORKER), code: codes.InvalidArgument, reason: "request"},
		{name: "a role that is none", grant: policy.Worker,
			req: join(diskA, "node-1", 7), code: codes.PermissionDenied, reason: "role"},
		{name: "a machine of another cluster", grant: policy.Worker, image: image + "@" + other.String(),
			req: join(diskA, "node-1", api.Role_ROLE_WORKER), code: codes.PermissionDenied, reason: "other-cluster"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, nil)
			if tc.image == "" {
				tc.image = image
			}
			d := f.device(tc.image)
			inventory := []policy.Entry{entry(f.device(image), "listed", policy.Worker)}
			if tc.grant != "" {
				inventory = append(inventory, entry(d, "node-1", tc.grant))
			}
			f.load(t, f.document(t, tc.free, append(f.usual(), accept(image, time.Time{}, other.String())), inventory...))
			m := machine{f.connect(t, d)}
			got, err := m.client.IssueJoinTicket(t.Context(), tc.req)
			if err == nil {
				t.Fatalf("granted: %s as %v", got.NodeName, got.Role)
			}
			f.wantRefusal(t, err, tc.code, tc.reason)
			if names := f.objects.Names(); len(names) != 0 {
				t.Errorf("something is bound: %v", names)
			}
		})
	}
}

// TestV17AnothersDisk: the disk of another node, and its name.
func TestV17AnothersDisk(t *testing.T) {
	f := start(t, nil)
	first, second := f.device(image), f.device(image)
	f.load(t, f.document(t, true, f.usual()))
	if _, err := f.connect(t, first).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Fatal(err)
	}
	c := f.connect(t, second)
	_, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-2", 0))
	f.wantRefusal(t, err, codes.PermissionDenied, "disk-taken")
	_, err = c.IssueJoinTicket(t.Context(), join(diskB, "worker-1", 0))
	f.wantRefusal(t, err, codes.AlreadyExists, "name-taken")
	_, err = c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	f.wantRefusal(t, err, codes.NotFound, "unknown-node")
	if _, err := c.IssueJoinTicket(t.Context(), join(diskB, "worker-2", 0)); err != nil {
		t.Errorf("with its own name and disk: %v", err)
	}
	_, err = c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	f.wantRefusal(t, err, codes.FailedPrecondition, "disk")
	_, err = c.IssueJoinTicket(t.Context(), join(diskB, "worker-3", 0))
	f.wantRefusal(t, err, codes.PermissionDenied, "name")
}

// TestCertificates: a node's certificates name that node, whatever it requests.
func TestCertificates(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, false, f.usual(), entry(d, "worker-1", policy.Worker)))
	c := f.connect(t, d)
	good := x509.CertificateRequest{Subject: subject("worker-1")}
	with := func(change func(*x509.CertificateRequest)) []byte {
		r := good
		change(&r)
		return request(t, &r)
	}
	broken := request(t, &good)
	broken[len(broken)-1] ^= 1
	weak := requestOf(t, &good, elliptic.P224())
	for name, tc := range map[string]struct {
		request []byte
		says    string
	}{
		"V17 another node's":  {with(func(r *x509.CertificateRequest) { r.Subject = subject("control-1") }), "subject"},
		"an administrator's":  {with(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }), "subject"},
		"a second group":      {with(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:nodes", "system:masters"} }), "subject"},
		"more in the subject": {with(func(r *x509.CertificateRequest) { r.Subject.Country = []string{"DE"} }), "subject"},
		"with a name":         {with(func(r *x509.CertificateRequest) { r.DNSNames = []string{"worker-1"} }), "alternative names"},
		"with an address":     {with(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }), "alternative names"},
		"with a mailbox":      {with(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), "alternative names"},
		"not signed":          {broken, "signed by its key"},
		"a curve of 224 bits": {weak, "the key is none of"},
		"nonsense":            {[]byte("x"), "not a certificate request"},
		"too large":           {make([]byte, maxRequestSize+1), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			req := join(diskA, "worker-1", 0)
			req.CertificateRequest = tc.request
			_, err := c.IssueJoinTicket(t.Context(), req)
			f.wantRefusal(t, err, codes.InvalidArgument, "certificate")
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}
	if names := f.objects.Names(); len(names) != 0 {
		t.Errorf("something is bound: %v", names)
	}
}

// TestAgain: until the disk was opened a join may be repeated, with another disk even.
func TestAgain(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, true, f.usual()))
	c := f.connect(t, d)
	first, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Ticket.StateDiskKey, again.Ticket.StateDiskKey) || first.Ticket.Id == again.Ticket.Id {
		t.Error("another key, or the same ticket")
	}
	g := disk.Generation{}.After()
	_, err = c.AdvanceGeneration(t.Context(), step(first.Ticket.Id, diskA, disk.Generation{}, g))
	f.wantRefusal(t, err, codes.FailedPrecondition, "ticket")
	fresh, err := c.IssueJoinTicket(t.Context(), join(diskB, "worker-1", 0))
	if err != nil {
		t.Fatalf("with another disk, before the first was opened: %v", err)
	}
	if _, err := c.AdvanceGeneration(t.Context(), step(fresh.Ticket.Id, diskB, disk.Generation{}, g)); err != nil {
		t.Fatal(err)
	}
	_, err = c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	f.wantRefusal(t, err, codes.FailedPrecondition, "disk")
}

// TestRotation: a node gets the key that its disk has, whatever the newest one is.
func TestRotation(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, true, f.usual()))
	c := f.connect(t, d)
	if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	again, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil || !bytes.Equal(again.Ticket.StateDiskKey, f.key(t, diskA, 1)) {
		t.Errorf("another key than before the rotation: %v", err)
	}
	back, err := c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	if err != nil || !bytes.Equal(back.Ticket.StateDiskKey, f.key(t, diskA, 1)) {
		t.Errorf("another key than before the rotation: %v", err)
	}
	fresh, err := c.IssueJoinTicket(t.Context(), join(diskB, "worker-1", 0))
	if err != nil || !bytes.Equal(fresh.Ticket.StateDiskKey, f.key(t, diskB, 2)) {
		t.Errorf("a fresh disk does not get the newest key: %v", err)
	}
	back, err = c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskB})
	if err != nil || !bytes.Equal(back.Ticket.StateDiskKey, f.key(t, diskB, 2)) {
		t.Errorf("another key than the fresh disk got: %v", err)
	}
	if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := f.ring.Retire(2); err != nil {
		t.Fatal(err)
	}
	_, err = c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	f.wantRefusal(t, err, codes.FailedPrecondition, "keys")
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("%v does not say that the version is gone", err)
	}
}

// TestRotationMeanwhile: the same machine asked twice at once, and became a node with a
// key of the version before.
func TestRotationMeanwhile(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, true, f.usual()))
	if _, err := f.ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	meanwhile := bindings.New(f.objects, nil)
	f.objects.Fault = func(ctx context.Context, operation, name string) error {
		if operation != "create" || !strings.HasPrefix(name, "node-") {
			return nil
		}
		f.objects.Fault = nil
		_, err := meanwhile.Bind(ctx, bindings.Node{
			Device: bindings.Device(identity(d)), Name: "worker-1", Role: policy.Worker, Disk: diskA, KeyVersion: 1, Ticket: bindings.NewTicket(time.Now(), ticketLife),
		})
		return err
	}
	got, err := f.connect(t, d).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil || !bytes.Equal(got.Ticket.StateDiskKey, f.key(t, diskA, 1)) {
		t.Errorf("another key than the node's: %v", err)
	}
}

// TestKeysOfOthersAreNotAskedFor: a disk that is not the node's is refused before.
func TestKeysOfOthersAreNotAskedFor(t *testing.T) {
	source := &failing{}
	f := start(t, func(o *Options) { source.Source = o.Keys; o.Keys = source })
	b := joined(t, f, policy.Worker)
	source.fail(keys.Errorf(keys.ClassUnreachable, "asked"))
	_, err := b.client.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskB})
	f.wantRefusal(t, err, codes.FailedPrecondition, "disk")
}

func TestSecretsAreNotLogged(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, false, f.usual(), entry(d, "control-1", policy.ControlPlane)))
	got, err := f.connect(t, d).IssueJoinTicket(t.Context(), join(diskA, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{got.Ticket.StateDiskKey, got.Ticket.MeasurementSecret, []byte(got.Ticket.Id), []byte("content of sa.key")} {
		if len(secret) < 16 || strings.Contains(f.log.String()+f.events.last().Note, string(secret)) {
			t.Errorf("logged, or not there: %d bytes", len(secret))
		}
	}
}

// TestWiped: what was encoded for a caller is gone from the message.
func TestWiped(t *testing.T) {
	var secrets [][]byte
	secret := func() []byte {
		secrets = append(secrets, []byte("secret"))
		return secrets[len(secrets)-1]
	}
	ticket := func() *api.Ticket { return &api.Ticket{StateDiskKey: secret(), MeasurementSecret: secret()} }
	control := func() *api.ControlPlane {
		return &api.ControlPlane{Files: []*api.File{{Content: secret()}, {Content: secret()}}, MasterSecret: secret()}
	}
	wipe(&api.IssueJoinTicketResponse{Ticket: ticket(), ControlPlane: control()})
	wipe(&api.IssueRejoinTicketResponse{Ticket: ticket(), ControlPlane: control()})
	for i, s := range secrets {
		if !bytes.Equal(s, make([]byte, len(s))) {
			t.Errorf("secret %d of %d is still there", i, len(secrets))
		}
	}
	wipe(&api.IssueJoinTicketResponse{})
}
