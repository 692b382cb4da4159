// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package joinservice

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestRealCluster is one cluster's life: etcd, kube-apiserver and KeyService are real.
func TestRealCluster(t *testing.T) {
	d := deploy(t)
	worker, control := d.device(image), d.device(image)
	s := d.run(t)
	if text, ready := s.ready(t); ready || text != "no policy is in force" {
		t.Errorf("without a policy the service is ready: %v, %s", ready, text)
	}
	d.event(t, "Warning", "PolicyRefused", "there is no ConfigMap kube-system/constellation-policy")
	d.configure(t, d.document(t, true, d.usual(), entry(control, "control-1", policy.ControlPlane)))
	waitFor(t, "readiness", func() bool { _, ready := s.ready(t); return ready })
	d.event(t, "Normal", "PolicyChanged", "now "+d.Policy.Digest().String())

	t.Run("the account may do what it needs, and nothing else", func(t *testing.T) { leastPrivilege(t, d) })
	t.Run("a node's life", func(t *testing.T) { life(t, d, d.connect(t, worker)) })
	t.Run("its certificates", func(t *testing.T) { certificates(t, d) })
	t.Run("a refusal", func(t *testing.T) {
		_, err := d.connect(t, worker).IssueJoinTicket(t.Context(), join(diskA, "worker-1", api.Role_ROLE_CONTROL_PLANE))
		d.wantRefusal(t, err, codes.PermissionDenied, "role")
		d.event(t, "Warning", "JoinRefused", "role: the device is granted the role worker, not control-plane: node worker-1")
		_, err = d.connect(t, d.device("image-2")).IssueJoinTicket(t.Context(), join(diskB, "worker-2", 0))
		if err == nil || !strings.Contains(err.Error(), "the peer refused: measurements") {
			t.Errorf("another image: %v", err)
		}
		d.event(t, "Warning", "MachineRefused", "atls: the peer's evidence: measurements: ")
	})
	t.Run("several at once", func(t *testing.T) { atOnce(t, d) })
	t.Run("a broken policy", func(t *testing.T) { brokenPolicy(t, d) })
	t.Run("KeyService is killed", func(t *testing.T) { withoutKeys(t, d) })
	t.Run("the API server is killed", func(t *testing.T) { withoutAPIServer(t, d, worker.Image) })
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// life is that of a worker: it joins, opens its disk, comes back, and is refused with an
// older copy.
func life(t *testing.T, d *deployment, c api.JoinServiceClient) {
	got, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Ticket.StateDiskKey) != string(d.key(t, diskA, 1)) {
		t.Error("another key than KeyService's")
	}
	d.event(t, "Normal", "JoinGranted", "node worker-1 (worker), disk "+diskA)
	b := &boots{t: t, client: c}
	if err := b.open(got.Ticket.Id); err != nil {
		t.Fatal(err)
	}
	older := b.now
	if err := b.open(b.rejoin().Ticket.Id); err != nil {
		t.Fatal(err)
	}
	newest := b.now
	b.now = older
	err = b.open(b.rejoin().Ticket.Id)
	d.wantRefusal(t, err, codes.FailedPrecondition, "rolled-back")
	d.event(t, "Warning", "DiskRefused", "rolled-back: ")

	// Restored on purpose: what docs/join.md says.
	patch := map[string]any{"data": map[string]string{"generation": fmt.Sprintf("%d/%s", older.Number, older.ID)}}
	names := d.nodes(t)
	node := names[slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "node-") })]
	if err := mergePatch(t, d.Admin, "/api/v1/namespaces/constellation-nodes/configmaps/"+node, patch); err != nil {
		t.Fatal(err)
	}
	if err := b.open(b.rejoin().Ticket.Id); err != nil || b.now.Number != newest.Number {
		t.Errorf("after the older generation was accepted: %v", err)
	}
}

// certificates: the API server knows the node by its certificate, and its own request for
// a certificate to serve with is approved, for that address.
func certificates(t *testing.T, d *deployment) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject("worker-3")}, key)
	if err != nil {
		t.Fatal(err)
	}
	req := join("00000003-0000-4000-8000-000000000000", "worker-3", 0)
	req.CertificateRequest = der
	got, err := d.connect(t, d.device(image)).IssueJoinTicket(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	node := *d.Cluster
	node.Admin = &rest.Config{Host: d.Admin.Host, TLSClientConfig: rest.TLSClientConfig{
		CAData:   got.Cluster.Authority,
		CertData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: got.Certificate}),
		KeyData:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
				Groups   []string
			}
		}
	}
	if err := node.Do(t.Context(), http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", map[string]any{}, &review); err != nil {
		t.Fatal(err)
	}
	if u := review.Status.UserInfo; u.Username != "system:node:worker-3" || len(u.Groups) != 2 || u.Groups[0] != "system:nodes" {
		t.Errorf("the API server knows the node as %+v", u)
	}

	// As in a cluster made by kubeadm, where the Node authorizer does it.
	binding := controlplanetest.Named("nodes-request-certificates")
	binding["roleRef"] = map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"}
	binding["subjects"] = []any{map[string]any{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}}
	d.Create(t, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
	for name, tc := range map[string]struct {
		address net.IP
		want    string
	}{"at-home": {net.IPv4(127, 0, 0, 1), "Approved"}, "elsewhere": {net.IPv4(10, 0, 0, 9), "Denied"}} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject: subject("worker-3"), DNSNames: []string{"worker-3"}, IPAddresses: []net.IP{tc.address},
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		o := controlplanetest.Named(name)
		o["spec"] = map[string]any{"signerName": "kubernetes.io/kubelet-serving", "usages": []string{"digital signature", "server auth"},
			"request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}
		waitFor(t, "the right to request certificates", func() bool {
			err := node.Do(t.Context(), http.MethodPost, "/apis/certificates.k8s.io/v1/certificatesigningrequests", o, nil)
			if err != nil && !strings.Contains(err.Error(), "cannot create resource") {
				t.Fatal(err)
			}
			return err == nil
		})
		waitFor(t, name+": "+tc.want, func() bool {
			var r struct {
				Status struct{ Conditions []struct{ Type string } }
			}
			if err := d.Do(t.Context(), http.MethodGet, "/apis/certificates.k8s.io/v1/certificatesigningrequests/"+name, nil, &r); err != nil {
				t.Fatal(err)
			}
			return len(r.Status.Conditions) == 1 && r.Status.Conditions[0].Type == tc.want
		})
	}
}

// atOnce has two JoinServices admit machines that want one name, and one disk.
func atOnce(t *testing.T, d *deployment) {
	const rounds = 10
	first := d.address
	defer func(s *Server) { d.address, d.Server = first, s }(d.Server)
	second := d.run(t)
	waitFor(t, "readiness of the second", func() bool { _, ready := second.ready(t); return ready })
	addresses := []string{first, second.Address()}
	for _, tc := range []struct {
		name    string
		request func(round, machine int) *api.IssueJoinTicketRequest
		reason  string
	}{
		{"name", func(r, m int) *api.IssueJoinTicketRequest {
			return join(fmt.Sprintf("0000000a-%04x-4000-8000-%012x", r, m), fmt.Sprintf("n-%d", r), 0)
		}, "name-taken"},
		{"disk", func(r, m int) *api.IssueJoinTicketRequest {
			return join(fmt.Sprintf("0000000b-%04x-4000-8000-000000000000", r), fmt.Sprintf("d-%d-%d", r, m), 0)
		}, "disk-taken"},
	} {
		for round := range rounds {
			var granted atomic.Int32
			var wg sync.WaitGroup
			for m, address := range addresses {
				d.address = address
				c := d.connect(t, d.device(image))
				wg.Go(func() {
					_, err := c.IssueJoinTicket(t.Context(), tc.request(round, m))
					if err == nil {
						granted.Add(1)
					} else if _, r := refusalOf(err); r.Reason != tc.reason {
						t.Errorf("refused with %v", err)
					}
				})
			}
			wg.Wait()
			if n := granted.Load(); n != 1 {
				t.Fatalf("round %d: %d machines have one %s", round, n, tc.name)
			}
		}
	}
	if err := second.end(); err != nil {
		t.Error(err)
	}
}

// brokenPolicy (V21): it is said to be, and the old one stays in force; a good one is
// taken without a restart.
func brokenPolicy(t *testing.T, d *deployment) {
	digest := d.Policy.Digest().String()
	d.put(t, []byte(`{"version":1,"technologies":["tpm"]}`))
	d.event(t, "Warning", "PolicyRefused", "policy: it lacks endorsement.authorities or endorsement.inventory, measurements. What was in force before stays")
	if line := d.lastAudit(t); line["msg"] != kindPolicy || line["verdict"] != "refused" || line["reason"] != "policy" {
		t.Errorf("audit: %v", line)
	}
	if d.Policy.Digest().String() != digest {
		t.Error("another policy is in force")
	}
	if _, err := d.connect(t, d.device(image)).IssueJoinTicket(t.Context(), join("0000000c-0000-4000-8000-000000000000", "by-the-old-policy", 0)); err != nil {
		t.Error(err)
	}
	before := d.connect(t, d.device(image))
	if _, err := before.IssueJoinTicket(t.Context(), join("0000000c-0000-4000-8000-000000000001", "worker-4", 0)); err != nil {
		t.Fatal(err)
	}
	d.put(t, d.document(t, false, d.usual(), entry(d.device(image), "x", policy.Worker)))
	waitFor(t, "the new policy", func() bool { return d.Policy.Digest().String() != digest })
	_, err := before.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: "0000000c-0000-4000-8000-000000000001"})
	d.wantRefusal(t, err, codes.Unavailable, "policy-changed")
	_, err = d.connect(t, d.device(image)).IssueJoinTicket(t.Context(), join("0000000c-0000-4000-8000-000000000002", "worker-5", 0))
	d.wantRefusal(t, err, codes.PermissionDenied, "not-listed")
	d.put(t, d.document(t, true, d.usual()))
	waitFor(t, "a policy that lets workers in", func() bool {
		_, err := d.connect(t, d.device(image)).IssueJoinTicket(t.Context(), join("0000000c-0000-4000-8000-000000000002", "worker-5", 0))
		return err == nil
	})
}

// withoutKeys: a clear error, nothing bound half.
func withoutKeys(t *testing.T, d *deployment) {
	d.keys.kill()
	before := len(d.nodes(t))
	c := d.connect(t, d.device(image))
	req := join("0000000d-0000-4000-8000-000000000000", "worker-6", 0)
	_, err := c.IssueJoinTicket(t.Context(), req)
	d.wantRefusal(t, err, codes.Unavailable, "keys")
	if n := len(d.nodes(t)); n != before {
		t.Errorf("something is bound: %v", d.nodes(t))
	}
	d.keys.start(t)
	waitFor(t, "a ticket", func() bool { _, err = c.IssueJoinTicket(t.Context(), req); return err == nil })
}

func withoutAPIServer(t *testing.T, d *deployment, image string) {
	c := d.connect(t, d.device(image))
	req := join("0000000e-0000-4000-8000-000000000000", "worker-7", 0)
	d.StopAPIServer()
	_, err := c.IssueJoinTicket(t.Context(), req)
	d.wantRefusal(t, err, codes.Unavailable, "api-server")
	if line := d.lastAudit(t); !strings.Contains(fmt.Sprint(line["error"]), "connection refused") {
		t.Errorf("the log does not say more: %v", line)
	}
	d.StartAPIServer(t)
	waitFor(t, "a ticket", func() bool { _, err = c.IssueJoinTicket(t.Context(), req); return err == nil })
}

// leastPrivilege asks the API server what the manifest gives the account.
func leastPrivilege(t *testing.T, d *deployment) {
	for _, tc := range []struct {
		verb, group, resource, name, namespace string
		want                                   bool
	}{
		{"get", "", "configmaps", "", bindings.Namespace, true},
		{"update", "", "configmaps", "", bindings.Namespace, true},
		{"delete", "", "configmaps", "", bindings.Namespace, false},
		{"list", "", "configmaps", "", bindings.Namespace, false},
		{"get", "", "configmaps", parameters.PolicyMap, parameters.Namespace, true},
		{"get", "", "configmaps", "kubeadm-config", parameters.Namespace, false},
		{"update", "", "configmaps", parameters.PolicyMap, parameters.Namespace, false},
		{"create", "", "configmaps", "", parameters.Namespace, false},
		{"get", "", "secrets", "", parameters.Namespace, false},
		{"get", "", "secrets", "", bindings.Namespace, false},
		{"approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving", "", true},
		{"approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client", "", false},
		{"sign", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving", "", false},
		{"create", "", "pods", "", parameters.Namespace, false},
		{"*", "*", "*", "", "", false},
	} {
		var answer struct {
			Status struct{ Allowed bool }
		}
		review := map[string]any{"spec": map[string]any{
			"user":               "system:serviceaccount:kube-system:joinservice",
			"groups":             []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"},
			"resourceAttributes": map[string]any{"verb": tc.verb, "group": tc.group, "resource": tc.resource, "name": tc.name, "namespace": tc.namespace},
		}}
		if err := d.Do(t.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", review, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != tc.want {
			t.Errorf("%s %s %s in %q: allowed %v", tc.verb, tc.resource, tc.name, tc.namespace, answer.Status.Allowed)
		}
	}
}

// TestEnd: a service that ends leaves no goroutine behind, and its secrets are wiped.
func TestEnd(t *testing.T) {
	d := deploy(t)
	d.configure(t, d.document(t, true, d.usual()))
	s := d.run(t)
	waitFor(t, "readiness", func() bool { _, ready := s.ready(t); return ready })
	if _, err := d.connect(t, d.device(image)).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if s.server.measurement.secret != nil {
		t.Error("the measurement secret is still there")
	}
	waitFor(t, "the service's goroutines to end", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "joinservice.(*")
	})
}
