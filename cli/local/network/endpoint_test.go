// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/network/networktest"
)

const thirdMAC, thirdIP = "52:54:00:00:01:32", "10.77.0.50"

// server is a machine that answers every connection with its address.
type server struct {
	*networktest.Guest
	listener net.Listener
}

func serveAt(t *testing.T, n *Network, mac, ip string) *server {
	t.Helper()
	g, err := networktest.NewGuest(n, mac, ip, Gateway)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Guest: g}
	if s.listener, err = g.Listen(ip, 6443); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(ip + "\n")) // and stays open
		}
	}()
	return s
}

// answer is which machine took a connection.
func answer(t *testing.T, conn net.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("nobody answers: %v", err)
	}
	return line[:len(line)-1]
}

// TestEndpoint: one address for all control planes, by which whoever lives is reached,
// from this computer and from the machines.
func TestEndpoint(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	targets := func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort(firstIP + ":6443"), netip.MustParseAddrPort(secondIP + ":6443")}
	}
	outside, err := n.Forward(0, targets)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.ForwardGateway(6443, targets); err != nil {
		t.Fatal(err)
	}
	client, err := networktest.NewGuest(n, thirdMAC, thirdIP, Gateway)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	dials := map[string]func() (net.Conn, error){
		"from this computer": func() (net.Conn, error) { return net.Dial("tcp", loopback(outside.Port())) },
		"from a machine": func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return client.Dial(ctx, Gateway, 6443)
		},
	}
	expect := func(what string, want ...string) (seen map[string]net.Conn) {
		t.Helper()
		seen = map[string]net.Conn{}
		for from, dial := range dials {
			for range 12 {
				conn, err := dial()
				if err != nil {
					t.Fatalf("%s, %s: %v", what, from, err)
				}
				t.Cleanup(func() { conn.Close() })
				seen[answer(t, conn)] = conn
			}
		}
		for _, ip := range want {
			if seen[ip] == nil {
				t.Errorf("%s: nobody came to %s", what, ip)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%s: connections came to %v, want %v", what, slices.Collect(maps.Keys(seen)), want)
		}
		return seen
	}

	second := serveAt(t, n, secondMAC, secondIP)
	expect("one is switched off", secondIP)
	first := serveAt(t, n, firstMAC, firstIP)
	open := expect("both are there", firstIP, secondIP)
	second.listener.Close()
	expect("one refuses", firstIP)
	first.Close()
	t.Cleanup(second.Close)

	// Connections to a machine that is gone end at once: it cannot say so itself.
	for ip, wantEnd := range map[string]bool{firstIP: true, secondIP: false} {
		open[ip].SetReadDeadline(time.Now().Add(time.Second))
		_, err := open[ip].Read(make([]byte, 1))
		var silent net.Error
		if ended := !errors.As(err, &silent) || !silent.Timeout(); ended != wantEnd {
			t.Errorf("a connection to %s ended: %v (%v), want %v", ip, ended, err, wantEnd)
		}
	}
}

func TestDialAny(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.77.0.10:1"), netip.MustParseAddrPort("10.77.0.11:1")
	refused := errors.New("refused")
	silent := func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	takes := func(context.Context, netip.AddrPort) (net.Conn, error) {
		ours, _ := net.Pipe()
		return ours, nil
	}
	refuses := func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, refused }
	type dial = func(context.Context, netip.AddrPort) (net.Conn, error)
	for _, tc := range []struct {
		name   string
		dials  map[netip.AddrPort]dial
		want   netip.AddrPort
		err    error
		within time.Duration
	}{
		{"no machine", nil, netip.AddrPort{}, errNoTarget, time.Second},
		{"all refuse", map[netip.AddrPort]dial{a: refuses, b: refuses}, netip.AddrPort{}, refused, headStart / 2},
		{"one refuses", map[netip.AddrPort]dial{a: refuses, b: takes}, b, nil, headStart / 2},
		{"one says nothing", map[netip.AddrPort]dial{a: silent, b: takes}, b, nil, 4 * headStart},
		{"all say nothing", map[netip.AddrPort]dial{a: silent, b: silent}, netip.AddrPort{}, context.DeadlineExceeded, patience},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var targets []netip.AddrPort
			for to := range tc.dials {
				targets = append(targets, to)
			}
			began := time.Now()
			conn, to, err := dialAny(ctx, func(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return tc.dials[to](ctx, to) }, targets)
			if !errors.Is(err, tc.err) || to != tc.want || (conn != nil) != (tc.err == nil) {
				t.Errorf("got %v, %v, %v", conn, to, err)
			}
			if took := time.Since(began); took > tc.within {
				t.Errorf("it took %v, want at most %v", took, tc.within)
			}
		})
	}
}

// TestSetHosts: a machine that comes later has its name and address, one that is taken
// away has neither.
func TestSetHosts(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	later := Host{"worker-1", thirdMAC, netip.MustParseAddr(thirdIP)}
	if err := n.SetHosts([]Host{twoHosts().Hosts[0], later}); err != nil {
		t.Fatal(err)
	}
	if got := offered(t, n, thirdMAC); got != thirdIP {
		t.Errorf("the new one was offered %s", got)
	}
	if got := offered(t, n, secondMAC); got == secondIP {
		t.Error("one that was taken away was offered its address")
	}
	z := n.zone()
	if got := z["worker-1."+Domain+"."]; len(got) != 1 || got[0].String() != thirdIP {
		t.Errorf("the new one's name stands for %v", got)
	}
	if got, there := z["control-plane-2."+Domain+"."]; there {
		t.Errorf("the name of one that was taken away stands for %v", got)
	}
	if got := z["api."+Domain+"."]; len(got) != 2 {
		t.Errorf("further names stand for %v", got)
	}
	if err := n.SetHosts([]Host{later, later}); err == nil {
		t.Error("a machine was taken twice")
	}
}
