// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/constellation-os/constellation/measurements/strictjson"
	"github.com/constellation-os/constellation/services/provider"
)

// Format names the format of the document, and its version.
const Format = "constellation-metadata/v1"

// Path is where the document is.
const Path = "/metadata/v1"

// MaxSize is that of a document in bytes.
const MaxSize = 256 << 10

// Document is what a machine is told.
type Document struct {
	Self     provider.Self
	Peers    []provider.Peer
	Endpoint string
	// Cluster to join; nil for none.
	Cluster *provider.Cluster
}

// wire is the JSON form.
type wire struct {
	Format   string       `json:"format"`
	Self     wireSelf     `json:"self"`
	Peers    []wirePeer   `json:"peers"`
	Endpoint string       `json:"endpoint"`
	Cluster  *wireCluster `json:"cluster,omitempty"`
}

type wireCluster struct {
	// Hexadecimal.
	ID     string          `json:"id"`
	Policy json.RawMessage `json:"policy"`
}

type wireSelf struct {
	Name string        `json:"name"`
	Role provider.Role `json:"role"`
	// Hexadecimal; empty for none.
	InitSecretHash string `json:"init_secret_sha256,omitempty"`
}

type wirePeer struct {
	Name    string        `json:"name"`
	Role    provider.Role `json:"role"`
	Address string        `json:"address"`
}

// Parse reads a document strictly (package strictjson).
func Parse(data []byte) (*Document, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("metadata: %d bytes, at most %d", len(data), MaxSize)
	}
	var w wire
	if err := strictjson.Decode(data, &w); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if w.Format != Format {
		return nil, fmt.Errorf("metadata: format %.80q, this program reads %q", w.Format, Format)
	}
	d := &Document{Self: provider.Self{Name: w.Self.Name, Role: w.Self.Role}, Endpoint: w.Endpoint}
	if w.Self.InitSecretHash != "" {
		hash, err := provider.ParseHash(w.Self.InitSecretHash)
		if err != nil {
			return nil, fmt.Errorf("metadata: init secret: %w", err)
		}
		d.Self.InitSecretHash = hash
	}
	for i, p := range w.Peers {
		a, err := netip.ParseAddr(p.Address)
		if err != nil {
			return nil, fmt.Errorf("metadata: peer %d: address %.80q is none", i, p.Address)
		}
		d.Peers = append(d.Peers, provider.Peer{Name: p.Name, Role: p.Role, Address: a})
	}
	if c := w.Cluster; c != nil {
		var err error
		if d.Cluster, err = provider.ParseCluster(c.ID, c.Policy); err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return d, nil
}

func (d *Document) check() error {
	if err := errors.Join(provider.CheckName(d.Self.Name), provider.CheckRole(d.Self.Role)); err != nil {
		return fmt.Errorf("self: %w", err)
	}
	return errors.Join(provider.CheckPeers(d.Peers), provider.CheckEndpoint(d.Endpoint), provider.CheckCluster(d.Cluster))
}

// Marshal makes the document. What Parse would refuse is refused. The policy loses its
// white space.
func (d *Document) Marshal() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	w := wire{Format: Format, Self: wireSelf{Name: d.Self.Name, Role: d.Self.Role}, Peers: []wirePeer{}, Endpoint: d.Endpoint}
	if h := d.Self.InitSecretHash; h != nil {
		w.Self.InitSecretHash = hex.EncodeToString(h[:])
	}
	for _, p := range d.Peers {
		w.Peers = append(w.Peers, wirePeer{p.Name, p.Role, p.Address.String()})
	}
	if c := d.Cluster; c != nil {
		w.Cluster = &wireCluster{hex.EncodeToString(c.ID[:]), c.Policy}
	}
	return json.Marshal(w)
}
