// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child says that the test runs in namespaces of its own.
const child = "CONSTELLATION_GUARD_CHILD"

// TestOnTheWire runs itself as root of a user namespace and a network namespace, which
// is the node.
func TestOnTheWire(t *testing.T) {
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOnTheWire$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestOnTheWire") {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	onTheWire(t)
}

// A node with a pod, a machine on its network, and what WireGuard leads to.
type wire struct {
	pod, outside, peer place
}

// place is a network namespace other than the node's.
type place struct{ pid int }

func newPlace(t *testing.T) place {
	t.Helper()
	// It ends by itself: the death of the thread that started it, which Pdeathsig would
	// look at, says nothing here.
	cmd := exec.Command("sleep", "120")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return place{cmd.Process.Pid}
}

// do runs a command, or fails.
func do(t *testing.T, words string) {
	t.Helper()
	args := strings.Fields(words)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", words, err, out)
	}
}

// sysctl sets one of the node's network.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// ip runs the command of that name in a place.
func (p place) ip(t *testing.T, words string) {
	t.Helper()
	do(t, fmt.Sprintf("nsenter -t %d -n ip %s", p.pid, words))
}

// inside calls f with the calling thread in the place.
func (p place) inside(f func() error) error {
	result := make(chan error)
	go func() {
		// The thread ends with the goroutine: it is never unlocked.
		runtime.LockOSThread()
		namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
		if err == nil {
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
			namespace.Close()
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// answer has a server in a place say who has called.
func (p place) answer(t *testing.T, address string) {
	t.Helper()
	var l net.Listener
	err := p.inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
}

// podsPort is where the pod hears.
const podsPort = "10.244.0.7:53"

// patience is how long to wait for what should come, and for what should not.
func patience(comes bool) time.Duration {
	if comes {
		return 20 * time.Second
	}
	return 700 * time.Millisecond
}

// call returns what a server says; nothing if it cannot be reached.
func (p place) call(t *testing.T, from, address string, reached bool) (said string) {
	t.Helper()
	err := p.inside(func() error {
		d := net.Dialer{Timeout: patience(reached)}
		if from != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		said = string(b)
		return err
	})
	var timeout net.Error
	if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		t.Fatalf("to %s: %v", address, err)
	}
	return said
}

// build makes the network: eth0 to the machine outside, cni0 with the pod, and an
// interface in WireGuard's place, with its name.
func build(t *testing.T) *wire {
	t.Helper()
	w := &wire{newPlace(t), newPlace(t), newPlace(t)}
	sysctl(t, "ip_forward", "1")
	do(t, "ip link set lo up")
	do(t, fmt.Sprintf("ip link add eth0 type veth peer name eth0 netns %d", w.outside.pid))
	do(t, fmt.Sprintf("ip link add veth1 type veth peer name eth0 netns %d", w.pod.pid))
	do(t, fmt.Sprintf("ip link add flannel-wg type veth peer name flannel-wg netns %d", w.peer.pid))
	do(t, "ip link add cni0 type bridge")
	do(t, "ip link set veth1 master cni0")
	for device, address := range map[string]string{"eth0": "10.77.0.2/24", "cni0": "10.244.0.1/24", "flannel-wg": "10.244.0.0/32", "veth1": ""} {
		if address != "" {
			do(t, "ip address add "+address+" dev "+device)
		}
		do(t, "ip link set "+device+" up")
	}
	// WireGuard needs no ARP; the interface in its place does.
	sysctl(t, "conf/flannel-wg/proxy_arp", "1")
	sysctl(t, "neigh/flannel-wg/proxy_delay", "0")
	do(t, "ip route add default via 10.77.0.66")
	do(t, "ip route add 10.244.0.0/16 dev flannel-wg")
	for _, p := range []struct {
		place
		device, address, route string
	}{
		{w.pod, "eth0", "10.244.0.7/24", "default via 10.244.0.1"},
		{w.outside, "eth0", "10.77.0.66/24", "10.244.0.0/16 via 10.77.0.2"},
		{w.peer, "flannel-wg", "10.244.1.7/32", "10.244.0.0/16 dev flannel-wg"},
	} {
		p.ip(t, "link set lo up")
		p.ip(t, "address add "+p.address+" dev "+p.device)
		p.ip(t, "link set "+p.device+" up")
		p.ip(t, "route add "+p.route)
	}
	w.outside.ip(t, "route add 10.96.0.0/12 via 10.77.0.2")
	// The machine outside pretends to be pods: one of this node, and one of another.
	w.outside.ip(t, "address add 10.244.3.3/32 dev lo")
	w.outside.ip(t, "address add 10.244.0.8/32 dev lo")
	w.outside.ip(t, "address add 10.244.1.7/32 dev lo")
	w.pod.answer(t, "0.0.0.0:80")
	w.peer.answer(t, "0.0.0.0:80")
	w.outside.answer(t, "0.0.0.0:80")
	return w
}

// nft puts the command on the path, from a layer of a container image.
func nft(t *testing.T) {
	t.Helper()
	layer, err := filepath.Abs(os.Getenv("CONSTELLATION_NFT_LAYER"))
	if err != nil || os.Getenv("CONSTELLATION_NFT_LAYER") == "" {
		t.Fatalf("CONSTELLATION_NFT_LAYER is not set, as to that of //kubernetes/images:nft_layer: %v", err)
	}
	dir := t.TempDir()
	do(t, "tar -x --zstd --no-same-owner -f "+layer+" -C "+dir)
	script := fmt.Sprintf("#!/bin/sh\nexec %[1]s/usr/lib64/ld-linux-x86-64.so.2 --library-path %[1]s/usr/lib/x86_64-linux-gnu %[1]s/usr/sbin/nft \"$@\"\n", dir)
	bin := t.TempDir()
	if err := os.WriteFile(bin+"/nft", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// message is said in a name that may not be one's own.
type message struct {
	where    place
	from, to string
	text     string
	heard    bool
}

func (m message) say(t *testing.T) {
	t.Helper()
	if err := m.where.inside(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(m.from)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(m.to)))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.WriteString(c, m.text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// hear listens in a place, answers each message, and returns those that came.
func (p place) hear(t *testing.T, at string, messages ...message) []string {
	t.Helper()
	var l net.PacketConn
	err := p.inside(func() (err error) {
		l, err = net.ListenPacket("udp", at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var heard []string
	for _, m := range messages {
		m.say(t)
		if err := l.SetReadDeadline(time.Now().Add(patience(m.heard))); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, from, err := l.ReadFrom(b)
		if err != nil {
			continue
		}
		heard = append(heard, string(b[:n]))
		if _, err := l.WriteTo(b[:n], from); err != nil {
			t.Fatal(err)
		}
	}
	return heard
}

// translation is what kube-proxy and flannel do: a service, its node port, and the
// node's address for what pods say to the world.
const translation = `table ip services {
	chain in {
		type nat hook prerouting priority dstnat;
		ip daddr 10.96.0.9 tcp dport 80 dnat to 10.244.0.7
		ip daddr 10.77.0.2 tcp dport 30080 dnat to 10.244.0.7:80
	}
	chain out {
		type nat hook postrouting priority srcnat;
		ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
	}
}`

func onTheWire(t *testing.T) {
	nft(t)
	w := build(t)
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(translation)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	type try struct {
		name       string
		where      place
		from, to   string
		open, with string // who has called, without the guard and with it
	}
	tries := []try{
		{"pod to pod through WireGuard", w.pod, "", "10.244.1.7:80", "10.244.0.7", "10.244.0.7"},
		{"from a pod through WireGuard", w.peer, "", "10.244.0.7:80", "10.244.1.7", "10.244.1.7"},
		{"pod to the world", w.pod, "", "10.77.0.66:80", "10.77.0.2", "10.77.0.2"},
		{"world to a node port", w.outside, "", "10.77.0.2:30080", "10.77.0.66", "10.77.0.66"},
		{"pod to a service", w.peer, "", "10.96.0.9:80", "10.244.1.7", "10.244.1.7"},
		{"world to a pod", w.outside, "10.77.0.66", "10.244.0.7:80", "10.77.0.66", ""},
		{"world to a service", w.outside, "10.77.0.66", "10.96.0.9:80", "10.77.0.66", ""},
	}
	w.peer.ip(t, "route add 10.96.0.0/12 dev flannel-wg")
	check := func(when string, guarded bool) {
		t.Helper()
		for _, try := range tries {
			want := try.open
			if guarded {
				want = try.with
			}
			if got := try.where.call(t, try.from, try.to, want != ""); got != want {
				t.Errorf("%s, %s: reached as %q, want %q", when, try.name, got, want)
			}
		}
		// There is no answer to what is said in another's name, but it can be heard.
		want := []string{"through WireGuard"}
		if !guarded {
			want = []string{"through WireGuard", "as who has just spoken", "as another node's pod", "as this node's pod"}
		}
		if got := w.pod.hear(t, podsPort, []message{
			{w.peer, "10.244.1.7:5353", podsPort, "through WireGuard", true},
			{w.outside, "10.244.1.7:5353", podsPort, "as who has just spoken", !guarded},
			{w.outside, "10.244.3.3:5353", podsPort, "as another node's pod", !guarded},
			{w.outside, "10.244.0.8:5353", podsPort, "as this node's pod", !guarded},
		}...); !slices.Equal(got, want) {
			t.Errorf("%s, the pod hears %q, want %q", when, got, want)
		}
	}
	check("without the guard", false)
	set := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := Set(ctx, netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12"), "cni0", "flannel-wg"); err != nil {
			t.Fatal(err)
		}
	}
	set()
	check("with the guard", true)
	set() // again, as after flannel's restart
	check("with the guard twice", true)
	withoutWireGuard(t, w, set)
}

// withoutWireGuard takes its interface away, as flannel does for a moment when it
// starts: what pods say to pods must not take the default route, to the machine that
// has their addresses.
func withoutWireGuard(t *testing.T, w *wire, set func()) {
	do(t, "ip link del flannel-wg")
	leaks := func(when string, want ...string) {
		t.Helper()
		const other = "10.244.1.7:53"
		if got := w.outside.hear(t, other, message{w.pod, "10.244.0.7:5354", other, "for a pod", len(want) > 0}); !slices.Equal(got, want) {
			t.Errorf("%s, the machine outside hears %q, want %q", when, got, want)
		}
	}
	leaks("with the guard")
	do(t, "nft delete table ip "+Table)
	leaks("without it", "for a pod")
	set()
	leaks("with the guard again")
}
