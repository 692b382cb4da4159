// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net"
	"net/netip"
)

// elsewhere is an address on nobody's network (RFC 5737): its route is the default one.
const elsewhere = "192.0.2.1:9"

// Address is the IPv4 address that the machine has for the rest of the world: the one
// that it would send from by its default route, or where there is none, the first one
// of a device that is up.
func Address() (netip.Addr, error) {
	// Nothing is sent: connecting a UDP socket only looks up the route.
	if conn, err := net.Dial("udp4", elsewhere); err == nil {
		defer conn.Close()
		if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && usable(local.AddrPort().Addr()) {
			return local.AddrPort().Addr().Unmap(), nil
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && usable(p.Addr()) {
			return p.Addr().Unmap(), nil
		}
	}
	return netip.Addr{}, errors.New("the machine has no IPv4 address")
}

func usable(a netip.Addr) bool {
	a = a.Unmap()
	return a.Is4() && a.IsGlobalUnicast()
}
