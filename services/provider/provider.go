// SPDX-License-Identifier: Apache-2.0

// Package provider is what a node learns from its surroundings, whoever runs them:
// what it is called, what it is meant to become, who its peers are and where the
// cluster's API servers are. Each kind of surroundings is one package below this one:
// qemu for machines of a local cluster, static for anybody's own hosts.
//
// # Trust
//
// Surroundings are not trusted. What they say decides with whom a node talks first,
// and by whose secret it lets itself be initialised, and never whom it believes: peers
// prove themselves on the attested channel, and what a node may be is the policy's to
// say. A lie costs availability.
//
// The one thing that a lie can gain is a machine that is nobody's: which cluster it
// joins is decided by who names one (Cluster). Such a machine has no secret to lose.
// Once it is a node, its disk remembers the cluster, and another's ticket opens
// nothing.
//
// What a provider returns has been parsed strictly and with limits, and is fit to be
// shown: names are DNS labels, addresses are addresses.
//
// # Not guaranteed
//
// That anything of it is true, complete, or the same a moment later.
package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Provider asks one kind of surroundings. Each call asks anew.
type Provider interface {
	// Self is what the surroundings say of this machine.
	Self(ctx context.Context) (Self, error)
	// Peers are the other machines of the cluster.
	Peers(ctx context.Context) ([]Peer, error)
	// Endpoint is HOST:PORT of the cluster's API servers.
	Endpoint(ctx context.Context) (string, error)
	// Cluster is the cluster that the machine is meant to join; nil if the surroundings
	// know of none, so that the machine waits for an owner.
	Cluster(ctx context.Context) (*Cluster, error)
}

// Role is what a machine is meant to become. It is a hint: the policy decides.
type Role string

// Roles.
const (
	ControlPlane Role = "control-plane"
	Worker       Role = "worker"
)

// Self is what is said of the machine that asks.
type Self struct {
	Name string
	Role Role
	// InitSecretHash is the SHA-256 of the secret by which the owner proves to be the
	// owner; nil if the surroundings know of none. Without one a node lets nobody
	// initialise it.
	InitSecretHash *[sha256.Size]byte
}

// Peer is another machine of the cluster.
type Peer struct {
	Name    string
	Role    Role
	Address netip.Addr
}

// Cluster is a cluster as a machine that joins needs to know it: it asks nobody who
// cannot prove to be of that cluster, and to have booted what the policy accepts.
type Cluster struct {
	// ID is the cluster's identity, which PCR 15 of its nodes shows.
	ID [IDSize]byte
	// Policy is the cluster's (package attestation/policy), a JSON object. It has not been
	// parsed: its reader does.
	Policy []byte
}

// IDSize is the size of a cluster's identity in bytes.
const IDSize = 32

// MaxPolicy is the size of a policy in bytes.
const MaxPolicy = 128 << 10

// Limits of what is believed to be a cluster.
const (
	MaxMachines = 1024
	maxName     = 63  // bytes of a DNS label (RFC 1123, section 2.1)
	maxHost     = 253 // bytes of a DNS name
)

// CheckName says whether a machine can be called so: a DNS label.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > maxName || name[0] == '-' || name[len(name)-1] == '-' ||
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("name %.80q: want 1 to %d of a-z, 0-9 and -, and no dash at either end", name, maxName)
	}
	return nil
}

// CheckRole says whether that is a role.
func CheckRole(r Role) error {
	if r != ControlPlane && r != Worker {
		return fmt.Errorf("role %.80q: want %q or %q", r, ControlPlane, Worker)
	}
	return nil
}

// CheckAddress says whether a machine can be reached at that address.
func CheckAddress(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
		return fmt.Errorf("address %q is not one at which a machine can be reached", a)
	}
	return nil
}

// CheckEndpoint says whether that is HOST:PORT.
func CheckEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return fmt.Errorf("endpoint %.80q: want HOST:PORT", endpoint)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("endpoint %.80q: want a port of 1 to 65535", endpoint)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if err := CheckAddress(a); err != nil {
			return fmt.Errorf("endpoint %.80q: %w", endpoint, err)
		}
		return nil
	}
	if len(host) > maxHost {
		return fmt.Errorf("endpoint %.80q: want a name of at most %d bytes", endpoint, maxHost)
	}
	for label := range strings.SplitSeq(host, ".") {
		if err := CheckName(label); err != nil {
			return fmt.Errorf("endpoint %.80q: %w", endpoint, err)
		}
	}
	return nil
}

// CheckPeers says what is wrong with a list of peers, nil if nothing is.
func CheckPeers(peers []Peer) error {
	if len(peers) > MaxMachines {
		return fmt.Errorf("%d machines, at most %d", len(peers), MaxMachines)
	}
	for i, p := range peers {
		if err := errors.Join(CheckName(p.Name), CheckRole(p.Role), CheckAddress(p.Address)); err != nil {
			return fmt.Errorf("machine %d: %w", i, err)
		}
		if slices.ContainsFunc(peers[:i], func(other Peer) bool { return other.Name == p.Name || other.Address == p.Address }) {
			return fmt.Errorf("machine %d, %s: its name or address is there twice", i, p.Name)
		}
	}
	return nil
}

// ParseHash reads a SHA-256 in hexadecimal.
func ParseHash(s string) (*[sha256.Size]byte, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != sha256.Size {
		return nil, fmt.Errorf("want %d hexadecimal digits", 2*sha256.Size)
	}
	return (*[sha256.Size]byte)(raw), nil
}

// ParseCluster reads a cluster's identity, in hexadecimal, and takes its policy.
func ParseCluster(id string, policy []byte) (*Cluster, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != IDSize {
		return nil, fmt.Errorf("cluster: id: want %d hexadecimal digits", 2*IDSize)
	}
	c := &Cluster{ID: [IDSize]byte(raw), Policy: policy}
	return c, CheckCluster(c)
}

// CheckCluster says what is wrong with a cluster, nil if nothing is, or if there is none.
func CheckCluster(c *Cluster) error {
	switch {
	case c == nil:
		return nil
	case c.ID == [IDSize]byte{}:
		return errors.New("cluster: id: it is zero, which is nobody's")
	case len(c.Policy) > MaxPolicy:
		return fmt.Errorf("cluster: policy: %d bytes, at most %d", len(c.Policy), MaxPolicy)
	case !bytes.HasPrefix(c.Policy, []byte("{")) || !json.Valid(c.Policy):
		return errors.New("cluster: policy: want a JSON object")
	}
	return nil
}
