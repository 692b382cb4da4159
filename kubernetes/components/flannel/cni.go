// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/subnet"
)

// allocations is where the addresses of pods are noted, in memory: a node that boots has no pods.
const allocations = "/run/cni/networks"

// list is a network configuration list of the CNI specification 1.0, for the
// plugins bridge, host-local and portmap of the node's image.
type list struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

type bridge struct {
	Type             string `json:"type"`
	Bridge           string `json:"bridge"`
	IsDefaultGateway bool   `json:"isDefaultGateway"`
	HairpinMode      bool   `json:"hairpinMode"`
	MTU              int    `json:"mtu"`
	IPAM             ipam   `json:"ipam"`
}

type ipam struct {
	Type    string    `json:"type"`
	DataDir string    `json:"dataDir"`
	Ranges  [][]pods  `json:"ranges"`
	Routes  []network `json:"routes"`
}

type pods struct {
	Subnet string `json:"subnet"`
}

type network struct {
	Destination string `json:"dst"`
}

type portmap struct {
	Type         string          `json:"type"`
	Backend      string          `json:"backend"`
	Capabilities map[string]bool `json:"capabilities"`
}

// configuration connects pods to a bridge with the addresses of the node's subnet.
func configuration(c *subnet.Config, n backend.Network) list {
	addresses := ipam{Type: "host-local", DataDir: allocations}
	if c.EnableIPv4 {
		addresses.Ranges = append(addresses.Ranges, []pods{{n.Lease().Subnet.String()}})
		addresses.Routes = append(addresses.Routes, network{c.Network.String()})
	}
	if c.EnableIPv6 {
		addresses.Ranges = append(addresses.Ranges, []pods{{n.Lease().IPv6Subnet.String()}})
		addresses.Routes = append(addresses.Routes, network{c.IPv6Network.String()})
	}
	return list{
		CNIVersion: "1.0.0", Name: "constellation",
		Plugins: []any{
			// Masquerading is flannel's.
			bridge{Type: "bridge", Bridge: bridgeName, IsDefaultGateway: true, HairpinMode: true, MTU: n.MTU(), IPAM: addresses},
			portmap{Type: "portmap", Backend: "nftables", Capabilities: map[string]bool{"portMappings": true}},
		},
	}
}

// writeCNI writes the configuration, all of it or nothing: the runtime watches the folder.
func writeCNI(path string, c *subnet.Config, n backend.Network) error {
	data, err := json.MarshalIndent(configuration(c, n), "", "  ")
	if err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temporary, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
