// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"fmt"
	"path/filepath"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/services/keyservice/client"
)

// Config is JoinService's configuration file, JSON. Nothing in it is secret. What nodes
// are told, and the policy, are in ConfigMaps: see follow.go.
type Config struct {
	// Listen is the address of the gRPC service, HTTP that of health and metrics.
	Listen string `json:"listen"`
	HTTP   string `json:"http"`
	// PKI is the folder with the files of the control plane; ca.crt and ca.key sign.
	PKI string `json:"pki"`
	// MasterSecret is a file; left out where the user's KMS holds the key.
	MasterSecret string `json:"master_secret,omitempty"`
	// KeyService is where keys come from.
	KeyService KeyService `json:"keyservice"`
	// TPM is the device that proves what this machine booted, EventLog the firmware's log.
	TPM      string `json:"tpm"`
	EventLog string `json:"event_log"`
	// Kubeconfig for the bindings; the pod's own if empty.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Limits; what is left out is as in DefaultLimits.
	Limits Limits `json:"limits"`
}

// KeyService is a [client.Config].
type KeyService struct {
	Address    string `json:"address"`
	ServerName string `json:"server_name"`
	CA         string `json:"ca"`
	Token      string `json:"token"`
}

func (k *KeyService) config() client.Config {
	return client.Config{Target: k.Address, ServerName: k.ServerName, CAFile: k.CA, TokenFile: k.Token}
}

// LoadConfig reads and checks a configuration file.
func LoadConfig(path string) (*Config, error) {
	c := Config{Limits: DefaultLimits()}
	if err := mode.ReadFile(path, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

func (c *Config) check() error {
	for _, f := range []struct{ name, value string }{
		{"listen", c.Listen}, {"http", c.HTTP}, {"pki", c.PKI}, {"tpm", c.TPM}, {"event_log", c.EventLog},
		{"keyservice.address", c.KeyService.Address}, {"keyservice.server_name", c.KeyService.ServerName},
		{"keyservice.ca", c.KeyService.CA}, {"keyservice.token", c.KeyService.Token},
	} {
		if f.value == "" {
			return keys.Errorf(keys.ClassInvalid, "%s is missing", f.name)
		}
	}
	l := c.Limits
	if l.DeviceRate <= 0 || l.DeviceBurst <= 0 || l.AddressRate <= 0 || l.AddressBurst <= 0 || l.QuoteRate <= 0 || l.QuoteBurst <= 0 || l.Connections <= 0 || l.Requests <= 0 {
		return keys.Errorf(keys.ClassInvalid, "limits must be positive")
	}
	return nil
}

func (c *Config) authority() (*Authority, error) {
	return NewAuthority(filepath.Join(c.PKI, "ca.crt"), filepath.Join(c.PKI, "ca.key"))
}
