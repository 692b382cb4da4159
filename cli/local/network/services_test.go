// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	firstMAC, firstIP   = "52:54:00:00:01:0a", "10.77.0.10"
	secondMAC, secondIP = "52:54:00:00:01:0b", "10.77.0.11"
)

func twoHosts() Options {
	first, second := netip.MustParseAddr(firstIP), netip.MustParseAddr(secondIP)
	return Options{
		Hosts: []Host{{"control-plane-1", firstMAC, first}, {"control-plane-2", secondMAC, second}},
		Names: map[string][]netip.Addr{"api": {first, second}},
	}
}

func listenOn(t *testing.T, s *stack.Stack, ip string, port uint16) net.Listener {
	t.Helper()
	l, err := gonet.ListenTCP(s, fullAddress(ip, port), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestMachinesReachEachOther(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	first, second := guestAt(t, n, firstMAC, firstIP), guestAt(t, n, secondMAC, secondIP)
	go echo(listenOn(t, second, secondIP, 80))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := gonet.DialContextTCP(ctx, first, fullAddress(secondIP, 80), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, conn)
}

// TestAMachineThatTakesNothing: one machine that has stopped reading does not keep the
// others from talking.
func TestAMachineThatTakesNothing(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	ours, theirs := net.Pipe()
	attached := make(chan struct{})
	go func() {
		defer close(attached)
		n.Attach(t.Context(), theirs)
	}()
	defer func() { ours.Close(); <-attached }()
	s := guestAt(t, n, firstMAC, firstIP)
	go func() { // more broadcasts than may wait for the other
		from := fullAddress(firstIP, 9)
		conn, err := gonet.DialUDP(s, &from, nil, ipv4.ProtocolNumber)
		if err != nil {
			return
		}
		defer conn.Close()
		for range 2 * maxWaiting {
			if _, err := conn.WriteTo(make([]byte, 64), &net.UDPAddr{IP: net.IPv4bcast, Port: 9}); err != nil {
				return
			}
		}
	}()
	l := listenOn(t, s, firstIP, 80)
	for range 3 {
		go echo(l)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := n.Dial(ctx, netip.MustParseAddrPort(firstIP+":80"))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		expectEcho(t, conn)
	}
}

func TestFrameConnDropsFramesForWhoTakesNone(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	c := newFrameConn(theirs)
	defer c.Close()
	began := time.Now()
	for range 10 * maxWaiting {
		if n, err := c.Write(make([]byte, 64)); n != 64 || err != nil {
			t.Fatal(n, err)
		}
	}
	if took := time.Since(began); took > 2*waitFor {
		t.Errorf("the switch was held up for %v", took)
	}
	// It is not cut off: once it takes frames, it gets new ones.
	if _, err := io.ReadFull(ours, make([]byte, 64*maxWaiting)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for c.stuck.Load() {
			time.Sleep(time.Millisecond)
		}
		c.Write([]byte("new"))
	}()
	rest := make([]byte, 64+3)
	if _, err := io.ReadFull(ours, rest); err != nil || !strings.HasSuffix(string(rest), "new") {
		t.Errorf("got %q, %v", rest, err)
	}
	c.Close()
	if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) && err != nil {
		t.Errorf("after its end: %v", err)
	}
}

func TestStaticLeases(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	for mac, want := range map[string]string{firstMAC: firstIP, secondMAC: secondIP} {
		if a, ok := n.Address(mac); !ok || a.String() != want {
			t.Errorf("%s has %v, want %s", mac, a, want)
		}
		if got := offered(t, n, mac); got != want {
			t.Errorf("%s was offered %s, want %s", mac, got, want)
		}
	}
	if got := offered(t, n, "52:54:00:00:09:09"); got == firstIP || got == secondIP || got == Gateway {
		t.Errorf("a stranger was offered %s", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, tc := range []struct {
		name, refusal string
		change        func(*Options)
	}{
		{"another spelling of a hardware address", "is not written as", func(o *Options) { o.Hosts[0].MAC = "52-54-00-00-01-0A" }},
		{"outside", "is not one for a machine", func(o *Options) { o.Hosts[0].Address = netip.MustParseAddr("10.78.0.1") }},
		{"the gateway", "is not one for a machine", func(o *Options) { o.Hosts[0].Address = netip.MustParseAddr(Gateway) }},
		{"twice", "there twice", func(o *Options) { o.Hosts[1].MAC = o.Hosts[0].MAC }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := twoHosts()
			tc.change(&o)
			if _, err := New(o); err == nil || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("got %v, want an error with %q", err, tc.refusal)
			}
		})
	}
}

func TestListen(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	l, err := n.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		from <- conn.RemoteAddr().String()
		io.Copy(conn, conn)
		conn.Close()
	}()
	s := guestAt(t, n, secondMAC, secondIP)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := gonet.DialContextTCP(ctx, s, fullAddress(Gateway, 80), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, conn)
	if a := netip.MustParseAddrPort(<-from).Addr().String(); a != secondIP {
		t.Errorf("it came from %s, want %s", a, secondIP)
	}
}

func TestForward(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	s := guestAt(t, n, firstMAC, firstIP)
	go echo(listenOn(t, s, firstIP, 6443))
	f, err := n.Forward(0, To(netip.MustParseAddrPort(firstIP+":6443")))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", loopback(f.Port()))
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, conn)

	t.Run("a busy port", func(t *testing.T) {
		_, err := n.Forward(f.Port(), To(netip.MustParseAddrPort(firstIP+":6443")))
		var busy *PortError
		if !errors.As(err, &busy) || busy.Port != f.Port() || busy.Free <= busy.Port {
			t.Fatalf("got %v", err)
		}
		if err := CheckPort(busy.Free); err != nil {
			t.Errorf("the port that is called free: %v", err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		dead, err := n.Forward(0, To(netip.MustParseAddrPort(firstIP+":1")))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", loopback(dead.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(patience))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read %d, %v", n, err)
		}
	})
	t.Run("the network's end", func(t *testing.T) {
		go echo(listenOn(t, s, firstIP, 6444))
		g, err := n.Forward(0, To(netip.MustParseAddrPort(firstIP+":6444")))
		if err != nil {
			t.Fatal(err)
		}
		open, err := net.Dial("tcp", loopback(g.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		n.Close()
		open.SetReadDeadline(time.Now().Add(patience))
		if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a forwarded connection after the end: %v", err)
		}
		if conn, err := net.Dial("tcp", loopback(f.Port())); err == nil {
			conn.Close()
			t.Error("the forward takes connections after the end")
		}
		if _, err := n.Forward(0, To(netip.MustParseAddrPort(firstIP+":6443"))); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a forward after the end: %v", err)
		}
	})
}

// ask makes a query as resolvers do.
func ask(t *testing.T, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNames(t *testing.T) {
	z := twoHosts().zone()
	for _, tc := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"control-plane-1.constellation.internal.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{firstIP}},
		{"Control-Plane-2.Constellation.Internal.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{secondIP}},
		{"api.constellation.internal.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{firstIP, secondIP}},
		{"api.constellation.internal.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, nil},
		{"other.constellation.internal.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"example.org.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m dnsmessage.Message
			if err := m.Unpack(z.answer(ask(t, tc.name, tc.kind))); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range m.Answers {
				got = append(got, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A).String())
			}
			if m.ID != 7 || !m.Response || m.RCode != tc.code || !slices.Equal(got, tc.want) || m.Questions[0].Name.String() != tc.name {
				t.Errorf("answer is %v", &m)
			}
		})
	}
	if got := z.answer([]byte("no query")); got != nil {
		t.Errorf("answered %x to what is none", got)
	}
	if answer := z.answer(ask(t, "example.org.", dnsmessage.TypeA)); z.answer(answer) != nil {
		t.Error("answered an answer: two servers would do so for ever")
	}
}

func TestNamesAreServed(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	s := guestAt(t, n, firstMAC, firstIP)
	from, to := fullAddress(firstIP, 5353), fullAddress(Gateway, dnsPort)
	conn, err := gonet.DialUDP(s, &from, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(ask(t, "api.constellation.internal.", dnsmessage.TypeA)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, mtu)
	count, err := conn.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer[:count]); err != nil || len(m.Answers) != 2 {
		t.Errorf("answer is %v, %v", &m, err)
	}
}

func FuzzAnswer(f *testing.F) {
	z := twoHosts().zone()
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("api.constellation.internal."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, query []byte) {
		answer := z.answer(query)
		if answer == nil {
			return
		}
		var p dnsmessage.Parser
		if h, err := p.Start(answer); err != nil || !h.Response || len(answer) > 512 {
			t.Fatalf("%d bytes, %v, %v", len(answer), h, err)
		}
	})
}
