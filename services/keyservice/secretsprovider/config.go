// SPDX-License-Identifier: Apache-2.0

package secretsprovider

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/mode"
)

// Config is the provider's configuration file, JSON. Nothing in it is secret.
type Config struct {
	// Socket that kube-apiserver is told of, an absolute path.
	Socket string `json:"socket"`
	mode.Config
}

// LoadConfig reads and checks a configuration file. The user-managed mode needs no
// store here, and a cache would keep nothing: both are refused.
func LoadConfig(path string) (*Config, error) {
	var c Config
	if err := mode.ReadFile(path, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

func (c *Config) check() error {
	if !filepath.IsAbs(c.Socket) {
		return keys.Errorf(keys.ClassInvalid, "socket is not an absolute path")
	}
	if u := c.UserManaged; u != nil && (u.Store != "" || u.Cache != "" || u.CacheSize != 0) {
		return keys.Errorf(keys.ClassInvalid, "Secrets at rest need neither a store nor a cache")
	}
	return c.Config.Check()
}

// Open opens the keys; the function it returns closes them.
func (c *Config) Open(ctx context.Context, b managed.Backends) (Cipher, func() error, error) {
	if c.UserManaged == nil {
		f, err := keys.Open(c.MasterSecret)
		if err != nil {
			return nil, nil, err
		}
		return Hierarchy(f), f.Close, nil
	}
	salt, err := c.UserManaged.SaltBytes()
	if err != nil {
		return nil, nil, err
	}
	keks, err := c.UserManaged.OpenKEKs(ctx, b, nil)
	if err != nil {
		return nil, nil, err
	}
	return Managed(salt, keks), func() error {
		var errs []error
		for _, k := range keks {
			errs = append(errs, k.Close())
		}
		return errors.Join(errs...)
	}, nil
}
