// SPDX-License-Identifier: Apache-2.0

// Package mode opens a cluster's source of keys from configuration: either the
// master secret in a file (cluster-held), or the user's KMS and a store
// (user-managed).
package mode

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// Config names one of the two modes. Nothing in it is secret.
type Config struct {
	// MasterSecret is the path of a master-secret file.
	MasterSecret string `json:"master_secret,omitempty"`
	// UserManaged names a KMS and a store.
	UserManaged *UserManaged `json:"user_managed,omitempty"`
}

// UserManaged is the configuration of the user-managed mode.
type UserManaged struct {
	// Salt of the cluster, in hexadecimal.
	Salt string `json:"salt"`
	// KEKs are the key encryption keys; the one with the highest version is the newest.
	KEKs []KEK `json:"keks"`
	// Store is the URI of the store. Kubernetes Secrets at rest do not need one.
	Store string `json:"store,omitempty"`
	// Cache is how long an unwrapped key may stay in memory, "10m" for example; none
	// by default. CacheSize is how many; 1024 by default.
	Cache     string `json:"cache,omitempty"`
	CacheSize int    `json:"cache_size,omitempty"`
}

// KEK names one version of the key encryption key.
type KEK struct {
	Version keys.Version `json:"version"`
	URI     string       `json:"uri"`
}

// maxCache bounds how long a key may be used after its KMS stopped giving it.
const maxCache = 24 * time.Hour

// Source is a [keys.Source] that can be asked how it is, and closed.
type Source interface {
	keys.Source
	Health(ctx context.Context) error
	Close() error
}

// Observe is told of each attempt at a backend, "kms" or "store".
type Observe func(backend string) func(operation string, class keys.Class, took time.Duration)

// Check says whether the configuration is of exactly one mode. Errors have [keys.ClassInvalid].
func (c *Config) Check() error {
	if (c.MasterSecret == "") == (c.UserManaged == nil) {
		return keys.Errorf(keys.ClassInvalid, "exactly one of master_secret and user_managed is needed")
	}
	return nil
}

// Open opens the source of keys.
func Open(ctx context.Context, c *Config, b managed.Backends, observe Observe) (Source, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.UserManaged == nil {
		f, err := keys.Open(c.MasterSecret)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	return c.UserManaged.open(ctx, b, observe)
}

func (u *UserManaged) open(ctx context.Context, b managed.Backends, observe Observe) (Source, error) {
	salt, err := u.SaltBytes()
	if err != nil {
		return nil, err
	}
	mc := managed.Config{Salt: salt, CacheSize: u.CacheSize}
	if mc.CacheSize == 0 {
		mc.CacheSize = 1024
	}
	if u.Cache != "" {
		if mc.CacheLife, err = time.ParseDuration(u.Cache); err != nil || mc.CacheLife < 0 || mc.CacheLife > maxCache {
			return nil, keys.Errorf(keys.ClassInvalid, "cache %.20q is not a duration of at most %v", u.Cache, maxCache)
		}
	}
	store, err := b.OpenStore(ctx, u.Store)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	mc.Store = managed.GuardStore(store, limits("store", observe))
	if mc.KEKs, err = u.OpenKEKs(ctx, b, observe); err != nil {
		return nil, err
	}
	s, err := managed.NewSource(mc)
	if err != nil {
		closeAll(mc.KEKs)
		return nil, err
	}
	return s, nil
}

// SaltBytes decodes the salt. Errors have [keys.ClassInvalid].
func (u *UserManaged) SaltBytes() ([]byte, error) {
	salt, err := hex.DecodeString(u.Salt)
	if err != nil || len(salt) != keys.SaltSize {
		return nil, keys.Errorf(keys.ClassInvalid, "salt is not %d bytes in hexadecimal", keys.SaltSize)
	}
	return salt, nil
}

// OpenKEKs opens all key encryption keys, with limits around them.
func (u *UserManaged) OpenKEKs(ctx context.Context, b managed.Backends, observe Observe) (map[keys.Version]managed.KMS, error) {
	keks := map[keys.Version]managed.KMS{}
	if len(u.KEKs) == 0 {
		return nil, keys.Errorf(keys.ClassInvalid, "no key encryption key is named")
	}
	for _, k := range u.KEKs {
		_, twice := keks[k.Version]
		var kms managed.KMS
		var err error
		switch {
		case k.Version == 0:
			err = keys.Errorf(keys.ClassInvalid, "versions start at 1")
		case twice:
			err = keys.Errorf(keys.ClassInvalid, "the version is there twice")
		default:
			kms, err = b.OpenKMS(ctx, k.URI)
		}
		if err != nil {
			closeAll(keks)
			return nil, fmt.Errorf("key encryption key, version %d: %w", k.Version, err)
		}
		keks[k.Version] = managed.Guard(kms, limits("kms", observe))
	}
	return keks, nil
}

func limits(backend string, observe Observe) managed.Limits {
	l := managed.DefaultLimits()
	if observe != nil {
		l.Observe = observe(backend)
	}
	return l
}

func closeAll(keks map[keys.Version]managed.KMS) error {
	var errs []error
	for _, k := range keks {
		errs = append(errs, k.Close())
	}
	return errors.Join(errs...)
}
