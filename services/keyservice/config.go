// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"fmt"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/mode"
)

// DefaultAudience is what callers' tokens are made for.
const DefaultAudience = "constellation-keyservice"

// Config is KeyService's configuration file, JSON. Nothing in it is secret.
type Config struct {
	// Listen is the address of the gRPC service, HTTP that of health and metrics.
	Listen string `json:"listen"`
	HTTP   string `json:"http"`
	// Certificate and PrivateKey are files in PEM. They are read again when they change.
	Certificate string `json:"certificate"`
	PrivateKey  string `json:"private_key"`
	// Audience of callers' tokens; DefaultAudience if empty.
	Audience string `json:"audience,omitempty"`
	// Kubeconfig for token reviews; the pod's own if empty.
	Kubeconfig string  `json:"kubeconfig,omitempty"`
	Grants     []Grant `json:"grants"`
	// Limits; what is left out is as in DefaultLimits.
	Limits Limits `json:"limits"`
	mode.Config
}

// LoadConfig reads and checks a configuration file.
func LoadConfig(path string) (*Config, error) {
	c := Config{Audience: DefaultAudience, Limits: DefaultLimits()}
	if err := mode.ReadFile(path, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

func (c *Config) check() error {
	for name, value := range map[string]string{
		"listen": c.Listen, "http": c.HTTP, "certificate": c.Certificate, "private_key": c.PrivateKey, "audience": c.Audience,
	} {
		if value == "" {
			return keys.Errorf(keys.ClassInvalid, "%s is missing", name)
		}
	}
	l := c.Limits
	if l.CallerRate <= 0 || l.CallerBurst <= 0 || l.ReviewRate <= 0 || l.ReviewBurst <= 0 || l.Connections <= 0 {
		return keys.Errorf(keys.ClassInvalid, "limits must be positive")
	}
	if _, err := NewPolicy(c.Grants); err != nil {
		return err
	}
	return c.Config.Check()
}
