// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"maps"
	"slices"
)

// ClusterPCR is zero until a node is initialised. Extending it once with the
// cluster's identity marks the node, irrevocably until it reboots.
const ClusterPCR = 15

// ClusterIDSize is the length of a cluster's identity in bytes (docs/keys.md).
const ClusterIDSize = 32

// ClusterDigests is what ClusterPCR is extended with: the hash of the cluster's
// identity in each bank.
func ClusterDigests(clusterID []byte) Digests { return Sum(clusterID) }

// Initialized is the prediction for the same machine once it belongs to a cluster.
func (p *Prediction) Initialized(clusterID []byte) *Prediction {
	q := *p
	q.Events = append(slices.Clone(p.Events), Event{
		PCR: ClusterPCR, Type: "CONSTELLATION_CLUSTER", Digests: ClusterDigests(clusterID),
		Component: ComponentCluster, Description: "cluster identity",
	})
	q.Image.Artifacts = maps.Clone(p.Image.Artifacts)
	q.PCRs = q.Replay()
	return &q
}
