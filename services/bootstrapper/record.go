// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"encoding/hex"
	"fmt"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/bootstrapper/record"
	"github.com/constellation-os/constellation/services/provider"
)

// Record is what the node keeps of the request, without its secrets.
func (r *Request) Record() *record.Node {
	return &record.Node{
		Role: provider.ControlPlane, Name: r.NodeName, First: true,
		Cluster: r.Cluster.String(), ClusterName: r.ClusterName, Policy: r.Policy,
		Endpoint: r.Endpoint, APIServerNames: r.APIServerNames,
		PodNetwork: r.Network.Pods.String(), ServiceNetwork: r.Network.Services.String(),
		Schedulable: r.Schedulable, Components: string(r.ComponentSet), Sources: r.Sources,
	}
}

// RequestOf is the request that a node's record was made of.
func RequestOf(n *record.Node, ring *keys.Keyring) (*Request, error) {
	networks, err := n.Network()
	if err != nil {
		return nil, err
	}
	cluster, err := hex.DecodeString(n.Cluster)
	if err != nil || len(cluster) != len(keys.ClusterID{}) {
		return nil, fmt.Errorf("the node's record names no cluster")
	}
	return &Request{
		Keyring: ring, Cluster: keys.ClusterID(cluster), NodeName: n.Name, ComponentSet: []byte(n.Components), Sources: n.Sources,
		Endpoint: n.Endpoint, APIServerNames: n.APIServerNames, Network: networks, ClusterName: n.ClusterName,
		Policy: n.Policy, Schedulable: n.Schedulable,
	}, nil
}
