// SPDX-License-Identifier: Apache-2.0

// Package record is what a node knows of itself and its cluster, on its state disk: all
// that it takes to be the same node again, but the secrets. It is written when the disk
// was opened for the first time.
//
// # Trust
//
// The disk is authenticated, so what is read here is what the node has written. It says
// nothing of how old it is: that is the disk's generation (docs/state-disk.md).
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/network"
	"github.com/constellation-os/constellation/measurements/strictjson"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/provider"
)

// Format names the file's format.
const Format = "constellation-node/v1"

// maxFile is the size of the file in bytes: a policy, a component set, and the rest.
const maxFile = 512 << 10

// Node is a node. There is no secret in it.
type Node struct {
	Format string        `json:"format"`
	Role   provider.Role `json:"role"`
	Name   string        `json:"name"`
	// First: the node founded the cluster.
	First bool `json:"first,omitempty"`
	// Cluster is the cluster's identity, in hexadecimal, and Policy its policy when the
	// node became part of it.
	Cluster     string          `json:"cluster"`
	ClusterName string          `json:"cluster_name"`
	Policy      json.RawMessage `json:"policy,omitempty"`
	// Endpoint is HOST:PORT of the API servers, APIServerNames what else they are called.
	Endpoint       string   `json:"endpoint"`
	APIServerNames []string `json:"api_server_names,omitempty"`
	PodNetwork     string   `json:"pod_network"`
	ServiceNetwork string   `json:"service_network"`
	// Schedulable: everybody's pods may run on this node of the control plane.
	Schedulable bool `json:"schedulable,omitempty"`
	// Components is the encoding of a componentset.Set, and Sources where they come from.
	Components string   `json:"components"`
	Sources    []string `json:"sources"`
}

// Set is the component set.
func (n *Node) Set() (*componentset.Set, error) { return componentset.Parse([]byte(n.Components)) }

// Network is that of pods and services.
func (n *Node) Network() (network.Network, error) {
	return network.Parse(n.PodNetwork, n.ServiceNetwork)
}

func (n *Node) check() error {
	if n.Format != Format {
		return fmt.Errorf("format %.80q, this program reads %q", n.Format, Format)
	}
	if _, err := provider.ParseHash(n.Cluster); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := errors.Join(provider.CheckName(n.Name), provider.CheckRole(n.Role), network.CheckEndpoint(n.Endpoint)); err != nil {
		return err
	}
	if _, err := n.Network(); err != nil {
		return err
	}
	_, err := n.Set()
	return err
}

// File is where a record is.
type File string

// Load reads the record. If there is none, the error is fs.ErrNotExist.
func (f File) Load() (*Node, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", f, maxFile)
	}
	var n Node
	if err := strictjson.Decode(data, &n); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return &n, nil
}

// Save replaces the record whole. What Load would refuse is refused.
func (f File) Save(n *Node) error {
	n.Format = Format
	if err := n.check(); err != nil {
		return fmt.Errorf("the node's record: %w", err)
	}
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return journal.Replace(string(f), append(data, '\n'))
}
