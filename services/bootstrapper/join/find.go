// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/provider"
)

// target is a cluster that can be asked.
type target struct {
	name     string
	role     provider.Role // what the machine is meant to become, by its surroundings
	id       keys.ClusterID
	policy   []byte
	verifier attestation.Verifier
	// addresses of its control planes' services, in the order in which they are asked.
	addresses []string
}

// find asks the surroundings; nil means that they know of no cluster.
func (a *Asker) find(ctx context.Context) (*target, error) {
	cluster, err := a.Provider.Cluster(ctx)
	if err != nil || cluster == nil {
		return nil, err
	}
	t := &target{id: keys.ClusterID(cluster.ID), policy: cluster.Policy}
	document, err := policy.Parse(cluster.Policy)
	if err != nil {
		return nil, fmt.Errorf("the policy of the cluster that this machine is to join: %w", err)
	}
	if document, err = document.OfCluster(t.id[:]); err != nil {
		return nil, err
	}
	if t.verifier, err = a.Judge(document); err != nil {
		return nil, err
	}
	self, err := a.Provider.Self(ctx)
	if err != nil {
		return nil, err
	}
	t.name, t.role = self.Name, self.Role
	t.addresses, err = a.addresses(ctx)
	return t, err
}

// addresses are those of all control planes, shuffled, and the endpoint's behind them: it
// leads to one of them.
func (a *Asker) addresses(ctx context.Context) (out []string, err error) {
	peers, err := a.Provider.Peers(ctx)
	if err != nil {
		return nil, err
	}
	endpoint, err := a.Provider.Endpoint(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		if p.Role == provider.ControlPlane {
			out = append(out, net.JoinHostPort(p.Address.String(), strconv.Itoa(a.port())))
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if host, _, err := net.SplitHostPort(endpoint); err == nil {
		if last := net.JoinHostPort(host, strconv.Itoa(a.port())); !slices.Contains(out, last) {
			out = append(out, last)
		}
	}
	return out, nil
}

func (a *Asker) port() int {
	if a.Port != 0 {
		return a.Port
	}
	return Port
}
