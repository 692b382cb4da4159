// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/constellation-os/constellation/cli/local/network/networktest"
)

const (
	guestMAC = "52:54:00:00:00:07"
	guestIP  = "10.77.0.2"
	patience = 10 * time.Second
)

func guest(t *testing.T, n *Network) *stack.Stack {
	t.Helper()
	return guestAt(t, n, guestMAC, guestIP)
}

// guestAt attaches a machine until the test ends.
func guestAt(t *testing.T, n *Network, hardware, address string) *stack.Stack {
	t.Helper()
	g, err := networktest.NewGuest(n, hardware, address, Gateway)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g.Stack
}

func newNetwork(t *testing.T) *Network {
	t.Helper()
	return newNetworkOf(t, Options{})
}

func newNetworkOf(t *testing.T, o Options) *Network {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

func fullAddress(ip string, port uint16) tcpip.FullAddress { return networktest.FullAddress(ip, port) }

func TestDialReachesAMachine(t *testing.T) {
	n := newNetwork(t)
	s := guest(t, n)
	listener, err := gonet.ListenTCP(s, fullAddress(guestIP, 9000), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	go echo(listener)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := n.Dial(ctx, netip.MustParseAddrPort(guestIP+":9000"))
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, conn)
}

// echo sends back what comes on one connection, and its end.
func echo(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	io.Copy(conn, conn)
	conn.Close()
}

func expectEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	sent := bytes.Repeat([]byte("0123456789"), 10_000)
	go conn.Write(sent)
	got := make([]byte, len(sent))
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("the echo differs: %v", err)
	}
}

// TestNothingLeadsOut: a machine reaches neither this computer nor anything beyond.
func TestNothingLeadsOut(t *testing.T) {
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	port := uint16(outside.Addr().(*net.TCPAddr).Port)
	n := newNetwork(t)
	s := guest(t, n)
	for name, to := range map[string]string{"this computer by its place on the network": Gateway, "this computer's loopback": "127.0.0.1", "beyond": "192.0.2.1"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if conn, err := gonet.DialContextTCP(ctx, s, fullAddress(to, port), ipv4.ProtocolNumber); err == nil {
				conn.Close()
				t.Errorf("%s was reached", to)
			}
		})
	}
}

func TestDHCP(t *testing.T) {
	n := newNetwork(t)
	if a, ok := n.Address(guestMAC); ok {
		t.Fatalf("a machine that asked for nothing has address %s", a)
	}
	got := offered(t, n, guestMAC)
	if address, ok := n.Address(guestMAC); !ok || got != address.String() {
		t.Errorf("offered %s, leased %s", got, address)
	}
}

// offered is the address that a machine is offered by DHCP.
func offered(t *testing.T, n *Network, hardware string) string {
	t.Helper()
	s := guestAt(t, n, hardware, guestIP)
	from, to := fullAddress(guestIP, 68), fullAddress(Gateway, 67)
	conn, err := gonet.DialUDP(s, &from, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mac, err := net.ParseMAC(hardware)
	if err != nil {
		t.Fatal(err)
	}
	discover, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(discover.ToBytes(), &net.UDPAddr{IP: to.Addr.AsSlice(), Port: int(to.Port)}); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, mtu)
	count, _, err := conn.ReadFrom(answer)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := dhcpv4.FromBytes(answer[:count])
	if err != nil {
		t.Fatal(err)
	}
	mask, _ := offer.SubnetMask().Size()
	if servers := offer.DNS(); offer.MessageType() != dhcpv4.MessageTypeOffer || mask != 24 || len(servers) != 1 || servers[0].String() != Gateway {
		t.Errorf("the offer is %s", offer.Summary())
	}
	return offer.YourIPAddr.String()
}

func TestFrameConn(t *testing.T) {
	frame := func(size int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...)
	}
	for _, tc := range []struct {
		name string
		sent []byte
		want int // bytes that come through
	}{
		{"a frame", frame(60), 64},
		{"the shortest", frame(minFrame), 4 + minFrame},
		{"too short", frame(minFrame - 1), 0},
		{"nothing, then a frame", append(frame(0), frame(60)...), 64},
		{"the longest", frame(maxFrame), 4 + maxFrame},
		{"too long, then a frame", append(frame(maxFrame+1), frame(60)...), 0},
		{"cut short", frame(60)[:40], 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sender, receiver := net.Pipe()
			go func() {
				sender.Write(tc.sent)
				sender.Close()
			}()
			got, _ := io.ReadAll(&frameConn{Conn: receiver})
			receiver.Close()
			if len(got) != tc.want {
				t.Errorf("%d bytes came through, want %d", len(got), tc.want)
			}
		})
	}
}

func TestDialRefusesIPv6(t *testing.T) {
	n := newNetwork(t)
	if _, err := n.Dial(t.Context(), netip.MustParseAddrPort("[::1]:1")); err == nil {
		t.Error("dialled")
	}
}
