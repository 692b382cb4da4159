// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	clipolicy "github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// maxTextSize is that of certificates and inventories, in bytes.
const maxTextSize = 1 << 20

// Trust is what a configuration says of whom to believe; clusterID may be nil.
func LoadTrust(c *config.Config, clusterID []byte) (Trust, error) {
	t := Trust{ClusterID: clusterID, FirstComeWorkers: len(c.Attestation.FirstCome) > 0}
	var err error
	if t.NotAfter, err = c.NotAfter(); err != nil {
		return t, err
	}
	for _, name := range c.Attestation.Measurements {
		data, err := command.ReadFile(c.Path(name), measurements.MaxPredictionSize)
		if err != nil {
			return t, fmt.Errorf("attestation.measurements: %w", err)
		}
		p, err := measurements.ParsePrediction(data)
		if err != nil {
			return t, fmt.Errorf("attestation.measurements: %s: %w", name, err)
		}
		t.Predictions = append(t.Predictions, p)
	}
	for _, name := range c.Attestation.Authorities {
		data, err := command.ReadFile(c.Path(name), maxTextSize)
		if err != nil {
			return t, fmt.Errorf("attestation.authorities: %w", err)
		}
		certificates, err := clipolicy.ParseAuthorities(data)
		if err != nil {
			return t, fmt.Errorf("attestation.authorities: %s: %w", name, err)
		}
		t.Authorities = append(t.Authorities, certificates...)
	}
	if name := c.Attestation.Inventory; name != "" {
		data, err := command.ReadFile(c.Path(name), maxTextSize)
		if err != nil {
			return t, fmt.Errorf("attestation.inventory: %w", err)
		}
		if t.Inventory, err = clipolicy.ParseInventory(data); err != nil {
			return t, fmt.Errorf("attestation.inventory: %s: %w", name, err)
		}
	}
	return t, nil
}

// InitRequest is what a node is asked for, secrets included, but for the policy. The
// caller wipes it with WipeRequest.
func InitRequest(c *config.Config, r *keys.Keyring, initSecret []byte, nodeName string) (*api.InitRequest, error) {
	_, set, err := c.ReadComponents()
	if err != nil {
		return nil, fmt.Errorf("kubernetes.components: %s: %w", c.Kubernetes.Components, err)
	}
	master, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	return &api.InitRequest{
		InitSecret: initSecret, Keys: &api.InitRequest_MasterSecret{MasterSecret: master},
		NodeName: nodeName, ComponentSet: set, Sources: c.Kubernetes.Sources,
		Endpoint: c.Endpoint, ApiServerNames: c.APIServerNames,
		PodNetwork: c.Kubernetes.PodNetwork, ServiceNetwork: c.Kubernetes.ServiceNetwork, ClusterName: c.Name,
	}, nil
}

// WipeRequest overwrites the secrets of a request.
func WipeRequest(r *api.InitRequest) {
	clear(r.InitSecret)
	clear(r.GetMasterSecret())
}
