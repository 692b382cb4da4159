// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"

	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// OfCluster is the same policy for nodes of one cluster alone: whatever else it says of
// PCR 15, only the value of this cluster's nodes is accepted there. The identity has
// measurements.ClusterIDSize bytes. Digest stays that of the document.
func (d *Document) OfCluster(id []byte) (*Document, error) {
	if len(id) != measurements.ClusterIDSize {
		return nil, refuse("a cluster's identity has %d bytes, not %d", measurements.ClusterIDSize, len(id))
	}
	if d.Measurements == nil {
		return nil, refuse("it lacks measurements")
	}
	value := accepted.Value{SHA256: clusterPCR(measurements.SHA256, id), SHA384: clusterPCR(measurements.SHA384, id)}
	out := *d
	out.Measurements = &accepted.Policy{Version: d.Measurements.Version, Accepted: slices.Clone(d.Measurements.Accepted)}
	for i := range out.Measurements.Accepted {
		set := &out.Measurements.Accepted[i]
		value.NotAfter = lastOf(set.PCRs[measurements.ClusterPCR])
		set.PCRs = maps.Clone(set.PCRs)
		set.PCRs[measurements.ClusterPCR] = []accepted.Value{value}
	}
	return &out, nil
}

// clusterPCR is PCR 15 of a cluster's nodes.
func clusterPCR(a measurements.Algorithm, id []byte) measurements.Digest {
	return a.Extend(a.Zero(), measurements.ClusterDigests(id)[a])
}
