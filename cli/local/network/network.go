// SPDX-License-Identifier: Apache-2.0

// Package network is the network of a local cluster: an Ethernet switch, a DHCP and a
// DNS server and this program's own place on it, all in user space. It needs no root
// rights, no bridge and no tap device.
//
// The network is an island. Nothing on it reaches this computer or anything beyond,
// but what this program listens for at the network's gateway; and nothing reaches it
// but what this program dials, and what comes to the forwards that it was asked for,
// on this computer's loopback.
//
// Trust boundary: machines on the network are not trusted. Frames that they send
// are bounded in size before anything looks at them, and whatever they claim as
// their address is only ever used to answer them. A machine that takes no frames
// holds up nobody else: frames for it are dropped.
//
// Not guaranteed: that an address is a certain machine's. Who answers at an
// address has to be found out by attestation.
package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
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
	// Subnet is the network's, and Gateway is where this program is in it.
	Subnet  = "10.77.0.0/24"
	Gateway = "10.77.0.1"
	// Domain is what names on the network end with. It is reserved for private use.
	Domain = "constellation.internal"

	gatewayMAC = "52:54:00:ff:ff:01" // locally administered
	mtu        = 1500                // bytes, as on Ethernet
	nic        = 1
)

// Options say what is known of the machines that will be attached. SetHosts changes it.
type Options struct {
	Hosts []Host
	// Names are further names in Domain, and what they stand for.
	Names map[string][]netip.Addr
}

// Host is a machine with an address of its own. Machines that are not listed get some
// other address.
type Host struct {
	// Name of the machine: NAME.Domain resolves to its address.
	Name string
	// MAC is its hardware address, as net.HardwareAddr prints it.
	MAC     string
	Address netip.Addr
}

// Network is a network that machines can be attached to.
type Network struct {
	stack *stack.Stack
	hub   *tap.Switch
	pool  *tap.IPPool
	dhcp  *dhcp.Server
	dns   *gonet.UDPConn

	closeOnce sync.Once
	closeErr  error
	services  sync.WaitGroup // DHCP, DNS, forwards, machines

	mu       sync.Mutex
	closed   bool
	options  Options
	forwards map[*Forward]bool
	attached map[*frameConn]bool

	captures captures
}

// New makes a network. Close ends it.
func New(o Options) (*Network, error) {
	// The libraries report every machine that goes as an error, to standard error.
	logrus.SetOutput(io.Discard)
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	_, prefix, err := net.ParseCIDR(Subnet)
	if err != nil {
		return nil, err
	}
	n := &Network{
		hub: tap.NewSwitch(false), pool: tap.NewIPPool(prefix), options: o,
		forwards: map[*Forward]bool{}, attached: map[*frameConn]bool{},
	}
	n.pool.Reserve(net.ParseIP(Gateway), gatewayMAC)
	for _, h := range o.Hosts {
		n.pool.Reserve(h.Address.AsSlice(), h.MAC)
	}
	own, err := tap.NewLinkEndpoint(false, mtu, gatewayMAC, Gateway, nil)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	own.Connect(n.hub)
	n.hub.Connect(own)
	if n.stack, err = newStack(own, prefix); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if err := n.serve(); err != nil {
		n.stack.Destroy()
		return nil, fmt.Errorf("network: %w", err)
	}
	return n, nil
}

// serve starts the servers that every network has.
func (n *Network) serve() (err error) {
	if n.dhcp, err = dhcp.New(&types.Configuration{Subnet: Subnet, GatewayIP: Gateway, MTU: mtu}, n.stack, n.pool); err != nil {
		return fmt.Errorf("start the DHCP server: %w", err)
	}
	at := gatewayAddress(dnsPort)
	if n.dns, err = gonet.DialUDP(n.stack, &at, nil, ipv4.ProtocolNumber); err != nil {
		return errors.Join(fmt.Errorf("start the DNS server: %w", err), n.dhcp.Underlying.Close())
	}
	n.services.Go(func() { _ = n.dhcp.Serve() }) // ends with an error when it is closed
	n.services.Go(func() { serveNames(n.dns, n.zone) })
	return nil
}

// zone is what names stand for now.
func (n *Network) zone() zone {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.options.zone()
}

// SetHosts says anew which machines will be attached. One that is attached and not
// listed any more keeps its address until it is unplugged.
func (n *Network) SetHosts(hosts []Host) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := Options{Hosts: slices.Clone(hosts), Names: n.options.Names}
	if err := o.check(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for _, h := range n.options.Hosts {
		if !slices.Contains(o.Hosts, h) {
			n.pool.Release(h.MAC)
		}
	}
	for _, h := range o.Hosts {
		n.pool.Reserve(h.Address.AsSlice(), h.MAC)
	}
	n.options = o
	return nil
}

func (o Options) check() error {
	prefix := netip.MustParsePrefix(Subnet)
	for i, h := range o.Hosts {
		mac, err := net.ParseMAC(h.MAC)
		if err != nil || mac.String() != h.MAC {
			return fmt.Errorf("machine %s: hardware address %q is not written as 52:54:00:00:00:01 is", h.Name, h.MAC)
		}
		if !prefix.Contains(h.Address) || h.Address.String() == Gateway {
			return fmt.Errorf("machine %s: address %s is not one for a machine in %s", h.Name, h.Address, Subnet)
		}
		if slices.ContainsFunc(o.Hosts[:i], func(other Host) bool {
			return other.Name == h.Name || other.MAC == h.MAC || other.Address == h.Address
		}) {
			return fmt.Errorf("machine %s: its name, hardware address or address is there twice", h.Name)
		}
	}
	return nil
}

func gatewayAddress(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(net.ParseIP(Gateway).To4()), Port: port}
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
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(net.ParseIP(Gateway).To4()), PrefixLen: ones},
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
	frames := newFrameConn(conn)
	frames.observe = n.captures.add
	defer frames.Close()
	if !n.enter(frames) {
		return
	}
	defer n.leave(frames)
	stop := context.AfterFunc(ctx, func() { frames.Close() })
	defer stop()
	_ = n.hub.Accept(ctx, frames, types.QemuProtocol)
}

// enter lists a machine's connection, unless the network is closed.
func (n *Network) enter(c *frameConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.attached[c] = true
	n.services.Add(1)
	return true
}

// leave forgets a machine's connection, and ends what is carried to the machine.
func (n *Network) leave(c *frameConn) {
	n.mu.Lock()
	delete(n.attached, c)
	forwards := maps.Clone(n.forwards)
	n.mu.Unlock()
	if address, known := n.Address(c.owner()); known {
		for f := range forwards {
			f.cut(address)
		}
	}
	n.services.Done()
}

// Address is the address that the machine with that hardware address has: the one that
// it was listed with, or else was given; false if it is not listed and has not asked yet.
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

// Listen takes the connections that machines make to a TCP port of the gateway.
func (n *Network) Listen(port uint16) (net.Listener, error) {
	l, err := gonet.ListenTCP(n.stack, gatewayAddress(port), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("network: listen on port %d: %w", port, err)
	}
	return l, nil
}

// Close ends the network, its forwards and every connection on it. Machines are
// unplugged.
func (n *Network) Close() error {
	n.closeOnce.Do(func() {
		n.mu.Lock()
		n.closed = true
		for c := range n.attached {
			c.Close()
		}
		forwards := maps.Clone(n.forwards)
		n.mu.Unlock()
		n.captures.close()
		for f := range forwards {
			f.end()
		}
		n.closeErr = errors.Join(n.dns.Close(), n.dhcp.Underlying.Close())
		n.services.Wait()
		n.stack.Destroy() // no frame may come to it any more
	})
	return n.closeErr
}
