// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/measurements"
)

// maxTextSize is that of certificates and inventories, in bytes.
const maxTextSize = 1 << 20

// checkFiles says all that is wrong with the files that the configuration names.
func (c *Config) checkFiles() (out []Problem) {
	at := func(path, file string, err error) {
		if err != nil {
			out = append(out, Problem{Path: path, Text: fmt.Sprintf("%s: %v", file, err)})
		}
	}
	_, _, err := c.ReadComponents()
	at("kubernetes.components", c.Kubernetes.Components, err)
	for i, name := range c.Attestation.Measurements {
		_, err := c.ReadMeasurements(name)
		at(fmt.Sprintf("attestation.measurements[%d]", i), name, err)
	}
	for i, name := range c.Attestation.Authorities {
		data, err := command.ReadFile(c.Path(name), maxTextSize)
		if err == nil {
			_, err = policy.ParseAuthorities(data)
		}
		at(fmt.Sprintf("attestation.authorities[%d]", i), name, err)
	}
	if name := c.Attestation.Inventory; name != "" {
		data, err := command.ReadFile(c.Path(name), maxTextSize)
		if err == nil {
			_, err = policy.ParseInventory(data)
		}
		at("attestation.inventory", name, err)
	}
	return out
}

// ReadComponents reads the component set, which must be of the Kubernetes that the
// configuration names.
func (c *Config) ReadComponents() (*componentset.Set, []byte, error) {
	set, data, err := readComponents(c.Path(c.Kubernetes.Components))
	if err == nil && set.Kubernetes != c.Kubernetes.Version {
		err = fmt.Errorf("it is a set of Kubernetes %s, and kubernetes.version says %s", set.Kubernetes, c.Kubernetes.Version)
	}
	return set, data, err
}

func readComponents(path string) (*componentset.Set, []byte, error) {
	data, err := command.ReadFile(path, componentset.MaxEncoding)
	if err != nil {
		return nil, nil, err
	}
	set, err := componentset.Parse(data)
	return set, data, err
}

// ReadMeasurements reads one of the files with measurements.
func (c *Config) ReadMeasurements(name string) (*measurements.Prediction, error) {
	data, err := command.ReadFile(c.Path(name), measurements.MaxPredictionSize)
	if err != nil {
		return nil, err
	}
	return measurements.ParsePrediction(data)
}
