// SPDX-License-Identifier: Apache-2.0

// Package networktest is a machine for tests of a local cluster's network: a network
// stack of its own, at the other end of a connection that carries frames.
package networktest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic     = 1
	mtu     = 1500
	waiting = 64 // frames
)

// Network is what a guest is attached to.
type Network interface {
	Attach(ctx context.Context, conn net.Conn)
}

// Guest is a machine on the network.
type Guest struct {
	Stack *stack.Stack

	conn     net.Conn
	attached chan struct{}
}

// NewGuest attaches a machine with that hardware address, address and gateway. Close
// unplugs it.
func NewGuest(n Network, hardware, address, gateway string) (*Guest, error) {
	mac, err := net.ParseMAC(hardware)
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	g := &Guest{conn: ours, attached: make(chan struct{})}
	link := channel.New(waiting, mtu, tcpip.LinkAddress(mac))
	if g.Stack, err = newStack(link, address, gateway); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(g.attached)
		defer cancel()
		n.Attach(ctx, theirs)
	}()
	go send(ctx, link, ours)
	go receive(link, ours)
	return g, nil
}

func newStack(link *channel.Endpoint, address, gateway string) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.CreateNIC(nic, ethernet.New(link)); err != nil {
		return nil, errors.New(err.String())
	}
	own := tcpip.AddressWithPrefix{Address: addressOf(address), PrefixLen: 24}
	if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
		return nil, errors.New(err.String())
	}
	s.SetRouteTable([]tcpip.Route{{Destination: own.Subnet(), NIC: nic}, {Destination: header.IPv4EmptySubnet, Gateway: addressOf(gateway), NIC: nic}})
	return s, nil
}

func addressOf(ip string) tcpip.Address {
	return tcpip.AddrFrom4(netip.MustParseAddr(ip).As4())
}

// FullAddress is an address and port in the form of the stack.
func FullAddress(ip string, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: addressOf(ip), Port: port}
}

// Listen takes TCP connections at one of the guest's own addresses.
func (g *Guest) Listen(ip string, port uint16) (net.Listener, error) {
	return gonet.ListenTCP(g.Stack, FullAddress(ip, port), ipv4.ProtocolNumber)
}

// Dial connects by TCP.
func (g *Guest) Dial(ctx context.Context, ip string, port uint16) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, g.Stack, FullAddress(ip, port), ipv4.ProtocolNumber)
}

// Close unplugs the guest and ends its connections.
func (g *Guest) Close() {
	g.conn.Close()
	<-g.attached
	g.Stack.Destroy()
}

func send(ctx context.Context, link *channel.Endpoint, conn net.Conn) {
	for {
		pkt := link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		frame := pkt.ToView().AsSlice()
		out := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
		if _, err := conn.Write(append(out, frame...)); err != nil {
			return
		}
		pkt.DecRef()
	}
}

func receive(link *channel.Endpoint, conn net.Conn) {
	for {
		var length [4]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(conn, frame); err != nil {
			return
		}
		link.InjectInbound(header.Ethernet(frame).Type(), stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)}))
	}
}
