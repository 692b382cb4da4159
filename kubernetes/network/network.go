// SPDX-License-Identifier: Apache-2.0

// Package network checks the networks of a cluster and computes what follows from
// them. It is IPv4: so are the networks of pods that the cluster can make.
package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Prefix lengths that Kubernetes can work with: a node gets a /24 of the pods'
// network, and the API server keeps a bitmap of 2^20 services at most.
const (
	NodePrefix = 24

	minPodPrefix     = 8
	minServicePrefix = 12
	maxServicePrefix = 27
)

// dnsOffset is where in the services' network the cluster's name server is, by
// kubeadm's convention.
const dnsOffset = 10

// Network is that of a cluster.
type Network struct {
	Pods, Services netip.Prefix
}

// Parse reads both networks, in CIDR notation, and refuses what would not work.
func Parse(pods, services string) (Network, error) {
	p, err := prefix("pods", pods, minPodPrefix, NodePrefix-1)
	if err != nil {
		return Network{}, err
	}
	s, err := prefix("services", services, minServicePrefix, maxServicePrefix)
	if err != nil {
		return Network{}, err
	}
	if p.Overlaps(s) {
		return Network{}, fmt.Errorf("network of pods %s and network of services %s overlap", p, s)
	}
	return Network{p, s}, nil
}

func prefix(whose, text string, shortest, longest int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("network of %s %q is not in CIDR notation, such as 10.1.0.0/16", whose, text)
	case !p.Addr().Is4():
		return p, fmt.Errorf("network of %s %s is not IPv4", whose, text)
	case p.Masked() != p:
		return p, fmt.Errorf("network of %s %s has bits set behind its prefix: %s is meant", whose, text, p.Masked())
	case p.Bits() < shortest || p.Bits() > longest:
		return p, fmt.Errorf("network of %s %s has a prefix of %d bits, from %d to %d are possible", whose, text, p.Bits(), shortest, longest)
	}
	for _, reserved := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"} {
		if netip.MustParsePrefix(reserved).Overlaps(p) {
			return p, fmt.Errorf("network of %s %s is in %s, which no network can use", whose, text, reserved)
		}
	}
	return p, nil
}

// DNS is the address of the cluster's name server.
func (n Network) DNS() netip.Addr {
	b := n.Services.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+dnsOffset)
	return netip.AddrFrom4(b)
}

// CheckNode refuses an address that a node cannot have in a cluster with these
// networks.
func (n Network) CheckNode(address string) error {
	a, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return fmt.Errorf("node's address %q is not an IP address", address)
	case !a.Is4():
		return fmt.Errorf("node's address %s is not IPv4", address)
	case !a.IsGlobalUnicast():
		return fmt.Errorf("node's address %s cannot be reached by others", address)
	case n.Pods.Contains(a):
		return fmt.Errorf("node's address %s is in the network of pods %s", address, n.Pods)
	case n.Services.Contains(a):
		return fmt.Errorf("node's address %s is in the network of services %s", address, n.Services)
	}
	return nil
}

// CheckEndpoint refuses what is not HOST:PORT with an address or a DNS name.
func CheckEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return fmt.Errorf("endpoint %q is not HOST:PORT", endpoint)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("endpoint %q: %q is no port", endpoint, port)
	}
	if err := CheckHost(host); err != nil {
		return fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	return nil
}

// CheckHost refuses what is neither an address nor a DNS name in lower case.
func CheckHost(host string) error {
	a, err := netip.ParseAddr(host)
	switch {
	case err == nil && a.Zone() != "":
		return fmt.Errorf("address %s has a zone, which means something on one machine only", host)
	case err == nil && (a.IsUnspecified() || a.IsMulticast()):
		return fmt.Errorf("address %s is nobody's", host)
	case err == nil:
		return nil
	}
	if problems := validation.IsDNS1123Subdomain(host); problems != nil {
		return fmt.Errorf("%q is neither an address nor a DNS name", host)
	}
	return nil
}
