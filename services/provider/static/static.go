// SPDX-License-Identifier: Apache-2.0

// Package static is the provider of anybody's own hosts: one inventory file, the same
// on every machine, lists them all. A machine finds itself in it by its address.
//
//	{
//	  "format": "constellation-inventory/v1",
//	  "endpoint": "api.example.org:6443",
//	  "init_secret_sha256": "8f0c…",
//	  "cluster": {"id": "4a7b…", "policy": {…}},
//	  "machines": [
//	    {"name": "node-1", "role": "control-plane", "address": "192.0.2.1"},
//	    {"name": "node-2", "role": "worker",        "address": "192.0.2.2"}
//	  ]
//	}
//
// Whoever can write the file is not trusted. See package provider for what that means.
package static

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/constellation-os/constellation/measurements/strictjson"
	"github.com/constellation-os/constellation/services/provider"
)

// Format names the format of an inventory, and its version.
const Format = "constellation-inventory/v1"

// MaxSize is that of an inventory in bytes.
const MaxSize = 256 << 10

// ErrNotListed says that no address of this machine is in the inventory.
var ErrNotListed = errors.New("no address of this machine is in the inventory")

// Provider implements provider.Provider.
type Provider struct {
	machines  []provider.Peer
	endpoint  string
	hash      *[32]byte
	cluster   *provider.Cluster
	addresses func() ([]netip.Addr, error)
}

var _ provider.Provider = (*Provider)(nil)

// inventory is the JSON form.
type inventory struct {
	Format   string    `json:"format"`
	Endpoint string    `json:"endpoint"`
	Hash     string    `json:"init_secret_sha256"` // hexadecimal; empty for none
	Cluster  *cluster  `json:"cluster"`            // none until there is one
	Machines []machine `json:"machines"`
}

type cluster struct {
	ID     string          `json:"id"` // hexadecimal
	Policy json.RawMessage `json:"policy"`
}

type machine struct {
	Name    string        `json:"name"`
	Role    provider.Role `json:"role"`
	Address string        `json:"address"`
}

// New reads an inventory strictly (package strictjson).
func New(data []byte) (*Provider, error) {
	p, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	p.addresses = interfaceAddresses
	return p, nil
}

func parse(data []byte) (*Provider, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), MaxSize)
	}
	var raw inventory
	if err := strictjson.Decode(data, &raw); err != nil {
		return nil, err
	}
	if raw.Format != Format {
		return nil, fmt.Errorf("format %.80q, this program reads %q", raw.Format, Format)
	}
	p := &Provider{endpoint: raw.Endpoint}
	if raw.Hash != "" {
		var err error
		if p.hash, err = provider.ParseHash(raw.Hash); err != nil {
			return nil, fmt.Errorf("init secret: %w", err)
		}
	}
	if c := raw.Cluster; c != nil {
		var err error
		if p.cluster, err = provider.ParseCluster(c.ID, c.Policy); err != nil {
			return nil, err
		}
	}
	for i, m := range raw.Machines {
		a, err := netip.ParseAddr(m.Address)
		if err != nil {
			return nil, fmt.Errorf("machine %d: address %.80q is none", i, m.Address)
		}
		p.machines = append(p.machines, provider.Peer{Name: m.Name, Role: m.Role, Address: a})
	}
	if len(p.machines) == 0 {
		return nil, errors.New("it lists no machine")
	}
	return p, errors.Join(provider.CheckPeers(p.machines), provider.CheckEndpoint(p.endpoint))
}

// Self implements provider.Provider.
func (p *Provider) Self(context.Context) (provider.Self, error) {
	i, err := p.find()
	if err != nil {
		return provider.Self{}, err
	}
	return provider.Self{Name: p.machines[i].Name, Role: p.machines[i].Role, InitSecretHash: p.hash}, nil
}

// Peers implements provider.Provider.
func (p *Provider) Peers(context.Context) ([]provider.Peer, error) {
	i, err := p.find()
	if err != nil {
		return nil, err
	}
	return slices.Delete(slices.Clone(p.machines), i, i+1), nil
}

// Endpoint implements provider.Provider.
func (p *Provider) Endpoint(context.Context) (string, error) { return p.endpoint, nil }

// Cluster implements provider.Provider.
func (p *Provider) Cluster(context.Context) (*provider.Cluster, error) { return p.cluster, nil }

// find returns which of the machines this one is.
func (p *Provider) find() (int, error) {
	own, err := p.addresses()
	if err != nil {
		return 0, fmt.Errorf("inventory: %w", err)
	}
	i := slices.IndexFunc(p.machines, func(m provider.Peer) bool { return slices.Contains(own, m.Address) })
	if i < 0 {
		return 0, fmt.Errorf("inventory: %w", ErrNotListed)
	}
	return i, nil
}

func interfaceAddresses() (out []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, addr.Unmap())
			}
		}
	}
	return out, err
}
