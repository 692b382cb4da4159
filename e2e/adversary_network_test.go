// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/e2e/adversarytest"
	"github.com/constellation-os/constellation/e2e/tamper"
	"github.com/constellation-os/constellation/services/bootstrapper/join"
	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// The machine that the adversary has in a network of his own.
const (
	stray        = "stray"
	strayAddress = "10.77.0.66"
)

// said is how long a machine may take until its console shows something: it asks twice a
// minute.
const said = 6 * time.Minute

// falseNetwork is the network of a machine that is led astray: whoever answers there, the
// surroundings too, is the adversary. He leads it to the cluster that it is told of, or not.
type falseNetwork struct {
	*network.Network
	a   *adversary
	own string // the machine's name, which nobody else has

	mu   sync.Mutex
	name string // what the machine is told that it is called
	cut  func() // ends what answers at JoinService's port
}

func (a *adversary) newFalseNetwork(t *testing.T) *falseNetwork {
	t.Helper()
	a.power(t, false)
	inner, err := network.New(network.Options{Hosts: []network.Host{{Name: stray, MAC: machine.DefaultMACAddress, Address: netip.MustParseAddr(strayAddress)}}})
	if err != nil {
		t.Fatal(err)
	}
	n := &falseNetwork{Network: inner, a: a, own: stray + "-" + strings.ToLower(rand.Text()[:8]), cut: func() {}}
	n.name = n.own
	t.Cleanup(func() { n.Close() })
	l, err := n.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(n.metadata), ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return n
}

// metadata names the cluster, and a control plane that is the gateway.
func (n *falseNetwork) metadata(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	name := n.name
	n.mu.Unlock()
	cluster, err := provider.ParseCluster(n.a.spec.Cluster.ID, n.a.spec.Cluster.Policy)
	gateway := netip.MustParseAddr(network.Gateway)
	var data []byte
	if err == nil && r.URL.Path == qemu.Path {
		data, err = (&qemu.Document{
			Self: provider.Self{Name: name, Role: provider.Worker}, Endpoint: netip.AddrPortFrom(gateway, 6443).String(), Cluster: cluster,
			Peers: []provider.Peer{{Name: "another", Role: provider.ControlPlane, Address: gateway}},
		}).Marshal()
	}
	if err != nil || data == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(data)
}

// call names the machine from now on.
func (n *falseNetwork) call(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.name = name
}

// listen ends what answered at JoinService's port.
func (n *falseNetwork) listen(t *testing.T) net.Listener {
	t.Helper()
	n.cut()
	l, err := n.Listen(join.Port)
	if err != nil {
		t.Fatal(err)
	}
	n.cut = func() { l.Close() }
	return l
}

// honest leads the machine to the cluster's JoinService.
func (n *falseNetwork) honest(t *testing.T) {
	t.Helper()
	n.cut = adversarytest.Forward(t, n.listen(t), n.a.cluster.Dial)
}

// relayed leads it there by way of somebody who ends the TLS of both.
func (n *falseNetwork) relayed(t *testing.T) {
	t.Helper()
	n.cut = adversarytest.Serve(t, n.listen(t), func(ctx context.Context, here net.Conn) {
		if there, err := n.a.cluster.Dial(ctx); err == nil {
			defer context.AfterFunc(ctx, func() { there.Close() })()
			adversarytest.Relay(here, there)
		}
	})
}

// boot boots a machine that is nobody's; change makes it another than the cluster's.
func (n *falseNetwork) boot(t *testing.T, change func(*machine.Config)) *transcript {
	t.Helper()
	console, spec := &transcript{}, n.a.spec
	c := machine.Config{
		Name: stray, Disk: spec.Disk, Firmware: machine.Firmware{Code: spec.FirmwareCode, Vars: spec.FirmwareVars}, Shape: spec.Shape,
		TPM: machine.TPM{AuthorityDir: n.a.folder.AuthorityFolder()}, StateDir: t.TempDir(), Console: console, Network: n,
	}
	change(&c)
	mustBoot(t, c)
	return console
}

// await waits until the console shows all of the texts.
func (c *transcript) await(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for began := time.Now(); !c.contains(text); time.Sleep(100 * time.Millisecond) {
			if time.Since(began) > said {
				t.Fatalf("the console does not show %q", text)
			}
		}
	}
}

// falseWay: an honest machine that is led to all but its cluster, then to the cluster
// under others' names, and then is cut off from it when it has its ticket.
func (a *adversary) falseWay(t *testing.T) {
	n, audit := a.newFalseNetwork(t), a.cluster.Audit
	mark := audit.Mark()
	console := n.boot(t, func(*machine.Config) {})
	refused := func(msg, reason string) {
		t.Helper()
		audit.Await(t, mark, adversarytest.Record{"msg": msg, "verdict": "refused", "reason": reason})
		audit.Never(t, mark, adversarytest.Record{"verdict": "granted"})
	}

	t.Run("a control plane that nobody reaches", func(t *testing.T) {
		console.await(t, "10.77.0.1: dial tcp 10.77.0.1:9444: connect: connection refused")
		audit.Nothing(t, mark)
	})
	t.Run("a JoinService on a machine of no cluster", func(t *testing.T) {
		service := a.cluster.OfNoCluster(t, n.listen(t))
		console.await(t, "10.77.0.1: atls: the peer's evidence: measurements: ", "PCR 15")
		if got := service.Requests(); got != 0 {
			t.Errorf("it got %d requests", got)
		}
		audit.Nothing(t, mark)
	})
	t.Run("V3 a relay", func(t *testing.T) {
		n.relayed(t)
		console.await(t, "10.77.0.1: atls: the peer refused: binding")
		refused("handshake", "binding")
	})
	t.Run("V17 a control plane's name", func(t *testing.T) {
		n.call(controlPlane)
		n.honest(t)
		console.await(t, "10.77.0.1 refuses: name: the inventory gives the name control-plane-1 to another device")
		refused("join-ticket", "name")
	})
	t.Run("V17 the worker's name", func(t *testing.T) {
		n.call(worker)
		console.await(t, "10.77.0.1 refuses: name-taken: ")
		refused("join-ticket", "name-taken")
	})
	t.Run("V20 the network fails in mid-join", func(t *testing.T) { n.partition(t, console) })
}

// partition cuts the machine off when it has its ticket, while it formats its disk.
func (n *falseNetwork) partition(t *testing.T, console *transcript) {
	audit := n.a.cluster.Audit
	mark := audit.Mark()
	accepted := adversarytest.Record{"msg": "generation", "verdict": "granted", "name": n.own}
	n.call(n.own)
	n.honest(t)
	audit.Await(t, mark, adversarytest.Record{"msg": "join-ticket", "verdict": "granted", "name": n.own, "role": "worker"})
	n.cut()
	if _, ok := audit.Find(mark, accepted); ok {
		t.Fatal("the network was cut too late: the cluster knows the disk already")
	}
	console.await(t, `This node cannot proceed: step "state disk" failed: `, "connection refused")
	audit.Never(t, mark, accepted)
	n.honest(t)
	audit.Await(t, mark, accepted)
}

// refuses boots a machine and leads it to the cluster. It wants its console to show why it
// does not join, and the audit log to say it.
func (a *adversary) refuses(t *testing.T, change func(*machine.Config), shows string, want adversarytest.Record) {
	t.Helper()
	n, audit := a.newFalseNetwork(t), a.cluster.Audit
	mark, nodes := audit.Mark(), a.bound(t, "name")
	n.honest(t)
	n.boot(t, change).await(t, "10.77.0.1: "+shows)
	audit.Await(t, mark, want)
	audit.Never(t, mark, adversarytest.Record{"msg": "generation"})
	if want["verdict"] == "granted" {
		return
	}
	audit.Never(t, mark, adversarytest.Record{"verdict": "granted"})
	if now := a.bound(t, "name"); strings.Join(now, " ") != strings.Join(nodes, " ") {
		t.Errorf("nodes are %v, and were %v", now, nodes)
	}
}

// turnedAway is what the audit log has of a machine that the channel refuses.
func turnedAway(reason string) adversarytest.Record {
	return adversarytest.Record{"msg": "handshake", "verdict": "refused", "reason": reason}
}

func (a *adversary) tampered(t *testing.T) {
	disk, err := tamper.CopyDisk(a.spec.Disk, filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.CommandLine("flavour=qemu", "flavour=QEMU"); err != nil {
		t.Fatal(err)
	}
	a.refuses(t, func(c *machine.Config) { c.Disk = disk.Path }, "atls: the peer refused: measurements", turnedAway("measurements"))
}

func (a *adversary) debugImage(t *testing.T) {
	other := filepath.Join(folder(t, debugImageEnv), "disk.raw")
	a.refuses(t, func(c *machine.Config) { c.Disk = other }, "atls: the peer refused: measurements", turnedAway("measurements"))
}

func (a *adversary) foreignTPM(t *testing.T) {
	authority := t.TempDir()
	a.refuses(t, func(c *machine.Config) { c.TPM.AuthorityDir = authority }, "atls: the peer refused: identity", turnedAway("identity"))
}

// clock sets a machine's, in UTC.
func clock(at time.Time) func(*machine.Config) {
	return func(c *machine.Config) {
		c.ExtraArgs = append(c.ExtraArgs, "-rtc", "base="+at.UTC().Format("2006-01-02T15:04:05"))
	}
}

// ahead: by the machine's clock what the cluster booted is not accepted any more.
func (a *adversary) ahead(t *testing.T) {
	want := turnedAway("expired")
	want["error"] = "atls: the peer refused: expired"
	a.refuses(t, clock(time.Now().Add(adversarytest.Year)), "atls: the peer's evidence: expired: ", want)
}

// behind: by the machine's clock there is no such cluster yet. JoinService cannot know that,
// and gives it a ticket, which it does nothing with.
func (a *adversary) behind(t *testing.T) {
	a.refuses(t, clock(time.Now().Add(-adversarytest.Year)), "its ticket cannot be used: the cluster's authority is valid from ",
		adversarytest.Record{"msg": "join-ticket", "verdict": "granted", "role": "worker"})
}
