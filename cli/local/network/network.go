// SPDX-License-Identifier: Apache-2.0

// Package network is the network of a local cluster: an Ethernet switch, a DHCP
// server and this program's own place on it, all in user space. It needs no root
// rights, no bridge and no tap device, and opens no port of this computer.
//
// The network is an island. Nothing on it reaches this computer or anything
// beyond, and nothing reaches it but what this program dials.
//
// Trust boundary: machines on the network are not trusted. Frames that they send
// are bounded in size before anything looks at them, and whatever they claim as
// their address is only ever used to answer them.
//
// Not guaranteed: that an address is a certain machine's. Who answers at an
// address has to be found out by attestation.
package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/containers/gvisor-tap-vsock/pkg/services/dhcp"
	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/sirupsen/logrus"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Where this program is on the network, and what surrounds it.
const (
	subnet     = "10.77.0.0/24"
	gateway    = "10.77.0.1"
	gatewayMAC = "52:54:00:ff:ff:01" // locally administered
	mtu        = 1500                // bytes, as on Ethernet
	nic        = 1
)

// Network is a network that machines can be attached to.
type Network struct {
	stack *stack.Stack
	hub   *tap.Switch
	pool  *tap.IPPool
	dhcp  *dhcp.Server

	closeOnce sync.Once
	closeErr  error
	served    chan struct{} // closed when the DHCP server has ended
}

// New makes a network. Close ends it.
func New() (*Network, error) {
	// The libraries report every machine that goes as an error, to standard error.
	logrus.SetOutput(io.Discard)
	_, prefix, err := net.ParseCIDR(subnet)
	if err != nil {
		return nil, err
	}
	n := &Network{hub: tap.NewSwitch(false), pool: tap.NewIPPool(prefix), served: make(chan struct{})}
	n.pool.Reserve(net.ParseIP(gateway), gatewayMAC)
	own, err := tap.NewLinkEndpoint(false, mtu, gatewayMAC, gateway, nil)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	own.Connect(n.hub)
	n.hub.Connect(own)
	if n.stack, err = newStack(own, prefix); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.dhcp, err = dhcp.New(&types.Configuration{Subnet: subnet, GatewayIP: gateway, MTU: mtu}, n.stack, n.pool); err != nil {
		n.stack.Destroy()
		return nil, fmt.Errorf("network: start the DHCP server: %w", err)
	}
	go func() {
		defer close(n.served)
		_ = n.dhcp.Serve() // ends with an error when it is closed
	}()
	return n, nil
}

// newStack makes this program's end: an address, and no forwarding.
func newStack(link stack.LinkEndpoint, prefix *net.IPNet) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := s.CreateNIC(nic, link); err != nil {
		return nil, errors.New(err.String())
	}
	ones, _ := prefix.Mask.Size()
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(net.ParseIP(gateway).To4()), PrefixLen: ones},
	}
	if err := s.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
		return nil, errors.New(err.String())
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: address.AddressWithPrefix.Subnet(), NIC: nic},
		{Destination: header.IPv4EmptySubnet, NIC: nic}, // the broadcasts of machines without an address
	})
	return s, nil
}

// Attach connects a machine until conn ends, ctx is done or the network is closed.
// conn carries Ethernet frames, each after its length in 4 bytes, big endian: what
// QEMU's netdev "stream" speaks. It is closed before Attach returns.
func (n *Network) Attach(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = n.hub.Accept(ctx, &frameConn{Conn: conn}, types.QemuProtocol)
	conn.Close()
}

// Address is the address that the machine with that hardware address was given,
// and whether it has asked for one yet.
func (n *Network) Address(mac string) (netip.Addr, bool) {
	for ip, owner := range n.pool.Leases() {
		if owner == mac {
			a, err := netip.ParseAddr(ip)
			return a, err == nil
		}
	}
	return netip.Addr{}, false
}

// Dial connects to a TCP port of a machine.
func (n *Network) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if !to.Addr().Is4() {
		return nil, fmt.Errorf("network: dial %s: only IPv4 is spoken here", to)
	}
	conn, err := gonet.DialContextTCP(ctx, n.stack, tcpip.FullAddress{
		NIC: nic, Addr: tcpip.AddrFrom4(to.Addr().As4()), Port: to.Port(),
	}, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("network: dial %s: %w", to, err)
	}
	return conn, nil
}

// Close ends the network and every connection on it. Connections of machines end
// with the context that they were attached with.
func (n *Network) Close() error {
	n.closeOnce.Do(func() {
		n.closeErr = n.dhcp.Underlying.Close()
		<-n.served
		n.stack.Destroy()
	})
	return n.closeErr
}
