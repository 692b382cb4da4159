// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/provider"
)

const (
	diskA = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"
	diskB = "0b3e1b52-16a8-4c0e-8c6b-3f2b7f0f9d11"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func TestPort(t *testing.T) {
	if Port != joinservice.Port {
		t.Errorf("services are looked for at port %d, and listen at %d", Port, joinservice.Port)
	}
}

// wantKey wants the key that the cluster has for the disk.
func (c *cluster) wantKey(ticket *Ticket) {
	c.t.Helper()
	key, err := keys.Get[keys.StateDisk](c.t.Context(), c.ring, ticket.Disk.UUID, disk.KeySize, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Equal(key.Copy(), ticket.DiskKey) {
		c.t.Error("the ticket has another key")
	}
}

func TestJoinAndComeBack(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	machine := c.device(image)
	a := c.asker(machine, at)
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if ticket.Cluster != c.id || ticket.Name != "worker-1" || ticket.Role != provider.Worker || ticket.ControlPlane != nil ||
		ticket.Parameters.GetServiceNetwork() != "10.96.0.0/12" || !bytes.Equal(ticket.Policy, c.document(true)) {
		t.Errorf("the ticket is %+v", ticket)
	}
	c.wantKey(ticket)
	certificate, err := x509.ParseCertificate(ticket.Certificate)
	if err != nil || certificate.CheckSignatureFrom(c.ca) != nil || certificate.Subject.CommonName != "system:node:worker-1" || !ticket.Key.PublicKey.Equal(certificate.PublicKey) {
		t.Errorf("the certificate is %+v, %v", certificate, err)
	}
	first := disk.Generation{}.After()
	for range 2 { // the answer was lost
		if err := ticket.Advance(t.Context(), diskA, disk.Generation{}, first); err != nil {
			t.Fatal(err)
		}
	}
	key := bytes.Clone(ticket.DiskKey)
	ticket.Close()
	if bytes.Equal(key, ticket.DiskKey) {
		t.Error("the key is there after the end")
	}

	// After a reboot the machine is nobody's, and its disk is there.
	back, err := a.Ask(t.Context(), Disk{UUID: diskA})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if back.Name != "worker-1" || !bytes.Equal(back.DiskKey, key) || len(back.Certificate) == 0 {
		t.Errorf("the ticket to come back is %+v", back)
	}
	if err := back.Advance(t.Context(), diskA, first, first.After()); err != nil {
		t.Error(err)
	}
}

// TestV14OlderCopy: the node is told what the cluster knows.
func TestV14OlderCopy(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	a := c.asker(c.device(image), at)
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Close()
	first := disk.Generation{}.After()
	if err := ticket.Advance(t.Context(), diskA, disk.Generation{}, first); err != nil {
		t.Fatal(err)
	}
	back, err := a.Ask(t.Context(), Disk{UUID: diskA})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	err = back.Advance(t.Context(), diskA, disk.Generation{}, disk.Generation{}.After())
	var old *disk.RollbackError
	if !errors.As(err, &old) || old.Known != first || !strings.Contains(err.Error(), "127.0.0.1 refuses: rolled-back: ") {
		t.Errorf("got %v", err)
	}
}

// TestV17Refusals: the machine is told the service's reason, and what helps.
func TestV17Refusals(t *testing.T) {
	for _, tc := range []struct {
		name, reason, says string
		inventory          func(c *cluster) []policy.Entry
		disk               Disk
		firstCome          bool
	}{
		{"not listed", "not-listed", "the policy's inventory does not list the device", nil, Disk{UUID: diskA, Fresh: true}, false},
		{"another's name", "name", "the inventory gives the name worker-1 to another device", func(c *cluster) []policy.Entry {
			return []policy.Entry{entry(c.device(image), "worker-1", policy.Worker)}
		}, Disk{UUID: diskA, Fresh: true}, true},
		{"no node", "unknown-node", "is no node of this cluster", nil, Disk{UUID: diskA}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			var inventory []policy.Entry
			if tc.inventory != nil {
				inventory = tc.inventory(c)
			}
			if err := c.policy.Load(c.document(tc.firstCome, inventory...)); err != nil {
				t.Fatal(err)
			}
			at, _ := c.serve(loopback, 0, c.service)
			_, err := c.asker(c.device(image), at).Ask(t.Context(), tc.disk)
			var r *Refusal
			if !errors.As(err, &r) || r.Reason != tc.reason || r.Advice == "" || !strings.Contains(err.Error(), tc.says) || r.Address != "127.0.0.1" {
				t.Errorf("got %v, want reason %q", err, tc.reason)
			}
			if !strings.Contains(c.log.String(), `"reason":"`+tc.reason+`"`) {
				t.Errorf("audit: %s", c.log)
			}
		})
	}
}

// TestV19FalseServices: a service is sent nothing before it has proved what it is.
func TestV19FalseServices(t *testing.T) {
	for _, tc := range []struct {
		name  string
		image func(c *cluster) string
		says  string
	}{
		{"of another cluster", func(c *cluster) string { return image + "@" + strings.Repeat("ab", 32) }, attestation.ReasonMeasurements.String()},
		{"of no cluster", func(c *cluster) string { return image }, attestation.ReasonMeasurements.String()},
		{"of another image", func(c *cluster) string { return "image-2@" + c.id.String() }, attestation.ReasonMeasurements.String()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			at, _ := c.serve(loopback, 0, c.device(tc.image(c)))
			_, err := c.asker(c.device(image), at).Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
			if err == nil || !strings.Contains(err.Error(), "127.0.0.1: ") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
			if c.log.Len() != 0 {
				t.Errorf("the service got a request: %s", c.log)
			}
		})
	}
}

// TestAnotherMachineIsTurnedAway: by the channel, whose reason is passed on.
func TestAnotherMachineIsTurnedAway(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	_, err := c.asker(c.device("image-2"), at).Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1: ") || !strings.Contains(err.Error(), attestation.ReasonMeasurements.String()) {
		t.Errorf("got %v", err)
	}
}

// TestAnotherClustersSecrets: a service that is of the cluster by its registers, and gives
// another's secrets, is not believed.
func TestAnotherClustersSecrets(t *testing.T) {
	c := newCluster(t)
	ring := keys.Generate()
	other, err := ring.ClusterID()
	if err != nil {
		t.Fatal(err)
	}
	// The machine is told of a cluster to which the service's machine belongs by PCR 15.
	at, _ := c.serve(loopback, 0, c.device(image+"@"+other.String()))
	a := c.asker(c.device(image), at)
	a.Provider.(*surroundings).cluster.ID = other
	_, err = a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err == nil || !strings.Contains(err.Error(), "its ticket cannot be used: its secrets are those of cluster "+c.id.String()[:8]) {
		t.Errorf("got %v", err)
	}
}

// TestAllControlPlanesAreAsked: one that is gone, or false, keeps nobody out.
func TestAllControlPlanesAreAsked(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(netip.MustParseAddr("127.0.0.2"), 0, c.service)
	c.serve(netip.MustParseAddr("127.0.0.3"), at.Port(), c.device(image))
	gone := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.4"), at.Port())
	false1 := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), at.Port())
	for range 8 { // in any order
		ticket, err := c.asker(c.device(image), gone, false1, at).Ask(t.Context(), Disk{UUID: newDisk(), Fresh: true})
		if err == nil {
			ticket.Close()
			continue
		}
		var r *Refusal
		if !errors.As(err, &r) || r.Reason != "name-taken" {
			t.Fatal(err)
		}
	}
	_, err := c.asker(c.device(image), gone, false1).Ask(t.Context(), Disk{UUID: diskB, Fresh: true})
	for _, says := range []string{"127.0.0.4: dial tcp", "connection refused\n", "127.0.0.3: atls: the peer's evidence: measurements: ", "127.0.0.99: dial tcp"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}

func newDisk() string { return disk.NewUUID() }

// TestEndpoint: with no peer that is known, the endpoint leads to a control plane.
func TestEndpoint(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	a := c.asker(c.device(image))
	a.Port, a.Provider.(*surroundings).endpoint = int(at.Port()), "127.0.0.1:6443"
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	ticket.Close()
}

// TestServiceIsGoneMeanwhile: another one takes down the disk's step.
func TestServiceIsGoneMeanwhile(t *testing.T) {
	c := newCluster(t)
	one, stop := c.serve(netip.MustParseAddr("127.0.0.2"), 0, c.service)
	machine := c.device(image)
	a := c.asker(machine, one, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), one.Port()))
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Close()
	stop()
	c.serve(netip.MustParseAddr("127.0.0.3"), one.Port(), c.service)
	first := disk.Generation{}.After()
	if err := ticket.Advance(t.Context(), diskA, disk.Generation{}, first); err != nil {
		t.Fatal(err)
	}
	n, err := c.bindings.Node(t.Context(), bindings.Device(identityOf(machine)))
	if err != nil || n.Known != first {
		t.Errorf("the cluster knows %+v, %v", n, err)
	}
}

// TestControlPlane: a machine that the inventory makes one gets what makes it that.
func TestControlPlane(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	machine := c.device(image)
	if err := c.policy.Load(c.document(false, entry(machine, "control-plane-2", policy.ControlPlane))); err != nil {
		t.Fatal(err)
	}
	a := c.asker(machine, at)
	a.Provider.(*surroundings).self = provider.Self{Name: "control-plane-2", Role: provider.ControlPlane}
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if ticket.Role != provider.ControlPlane || len(ticket.ControlPlane.GetFiles()) != 8 {
		t.Errorf("the ticket is for a %s with %d files", ticket.Role, len(ticket.ControlPlane.GetFiles()))
	}
	ring, err := keys.Parse(ticket.ControlPlane.GetMasterSecret())
	if err != nil {
		t.Fatal(err)
	}
	if id, err := ring.ClusterID(); err != nil || id != c.id {
		t.Errorf("the master secret is cluster %v's, %v", id, err)
	}
	secret := ticket.ControlPlane.MasterSecret
	ticket.Close()
	if len(bytes.Trim(secret, "\x00")) != 0 {
		t.Error("the master secret is there after the end")
	}
}

// TestNotYetAControlPlane: a machine that is meant to be one, and asks before the policy
// lists it, does not become a worker where everybody may be that.
func TestNotYetAControlPlane(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	machine := c.device(image)
	a := c.asker(machine, at)
	a.Provider.(*surroundings).self = provider.Self{Name: "control-plane-2", Role: provider.ControlPlane}
	_, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	var r *Refusal
	if !errors.As(err, &r) || r.Reason != "role" || !strings.Contains(r.Message, "is granted the role worker, not control-plane") {
		t.Fatalf("got %v, want reason role", err)
	}
	if err := c.policy.Load(c.document(true, entry(machine, "control-plane-2", policy.ControlPlane))); err != nil {
		t.Fatal(err)
	}
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Close()
	if ticket.Role != provider.ControlPlane {
		t.Errorf("the ticket is for a %s", ticket.Role)
	}
}

// TestAnotherNameOnTheWayBack: what the node is called is the cluster's word. The
// surroundings' only costs the new certificate.
func TestAnotherNameOnTheWayBack(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	a := c.asker(c.device(image), at)
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	ticket.Close()
	a.Provider.(*surroundings).self.Name = "worker-9"
	back, err := a.Ask(t.Context(), Disk{UUID: diskA})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if back.Name != "worker-1" || len(back.Certificate) != 0 || back.Key != nil {
		t.Errorf("the ticket is for %s, with a certificate of %d bytes", back.Name, len(back.Certificate))
	}
}

func TestPolicyThatIsNone(t *testing.T) {
	c := newCluster(t)
	a := c.asker(c.device(image))
	a.Provider.(*surroundings).cluster.Policy = []byte(`{"version":1}`)
	_, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if attestation.ReasonOf(err) != attestation.ReasonPolicy || !strings.Contains(err.Error(), "the policy of the cluster that this machine is to join") {
		t.Errorf("got %v", err)
	}
}
