// SPDX-License-Identifier: Apache-2.0

package managed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/constellation-os/constellation/keys"
)

// Config of a [Source].
type Config struct {
	// Salt of the cluster; not secret.
	Salt []byte
	// KEKs by version; the highest is the newest and wraps new keys. A version that
	// is left out is retired: what it wrapped cannot be had any more.
	KEKs map[keys.Version]KMS
	// Store of the wrapped keys.
	Store Store
	// CacheLife is how long a seed may stay in memory, and CacheSize how many; 0 for none.
	CacheLife time.Duration
	CacheSize int
}

// Source is a [keys.Source] whose keys come from wrapped seeds. It may be used by
// several goroutines and several processes with the same store at once: of
// several that make the same key at the same moment, all get the same.
//
// Version 0 asks for the newest version, that of the newest KEK, and makes the
// key if there is none. Any other version must be there already: a disk whose key
// is lost must not get a new one. The measurement secret has version 1 only.
type Source struct {
	config Config
	newest keys.Version
	cache  *cache
	flight singleflight.Group
}

// NewSource checks a configuration. Errors have [keys.ClassInvalid].
func NewSource(c Config) (*Source, error) {
	if len(c.Salt) != keys.SaltSize {
		return nil, keys.Errorf(keys.ClassInvalid, "the salt has %d bytes, not %d", len(c.Salt), keys.SaltSize)
	}
	if c.Store == nil || len(c.KEKs) == 0 {
		return nil, keys.Errorf(keys.ClassInvalid, "a store and a key encryption key are needed")
	}
	s := &Source{config: c, cache: newCache(c.CacheLife, c.CacheSize)}
	for version, kms := range c.KEKs {
		if version == 0 || kms == nil {
			return nil, keys.Errorf(keys.ClassInvalid, "versions of key encryption keys start at 1")
		}
		s.newest = max(s.newest, version)
	}
	return s, nil
}

// DataKey implements [keys.Source].
func (s *Source) DataKey(ctx context.Context, purpose keys.Purpose, id string, length int, version keys.Version) (*keys.DataKey, error) {
	if err := keys.Check(purpose, id, length); err != nil {
		return nil, err
	}
	mayMake := version == 0
	switch {
	case purpose == keys.PurposeMeasurement && version > 1:
		return nil, keys.Errorf(keys.ClassVersion, "the measurement secret has version 1 only, not %d", version)
	case purpose == keys.PurposeMeasurement:
		version = 1
	case version == 0:
		version = s.newest
	case version > s.newest:
		return nil, keys.Errorf(keys.ClassVersion, "the key encryption key has no version %d: it was never made", version)
	}
	at := newSlot(s.config.Salt, purpose, id, version)
	seed, err := s.seed(ctx, at, mayMake)
	if err != nil {
		return nil, fmt.Errorf("key %v: %w", at, err)
	}
	defer seed.Wipe()
	secret, err := keys.Expand(seed, s.config.Salt, purpose, id, length)
	if err != nil {
		return nil, err
	}
	return &keys.DataKey{Purpose: purpose, ID: id, Version: version, Secret: secret}, nil
}

// seed returns a copy of its own. Callers who want the same one at once share
// the work, which goes on if one of them leaves.
func (s *Source) seed(ctx context.Context, at slot, mayMake bool) (keys.Secret, error) {
	if seed, ok := s.cache.get(at); ok {
		return seed, nil
	}
	key := fmt.Sprint(at.name(), mayMake)
	done := s.flight.DoChan(key, func() (any, error) {
		return s.fetch(context.WithoutCancel(ctx), at, mayMake)
	})
	select {
	case <-ctx.Done():
		return keys.Secret{}, keys.Errorf(keys.ClassTimeout, "the caller did not wait: %w", ctx.Err())
	case r := <-done:
		if r.Err != nil {
			return keys.Secret{}, r.Err
		}
		// The shared one is wiped when the last of those who share it has let go.
		return keys.NewSecret(r.Val.(keys.Secret).Copy()), nil
	}
}

func (s *Source) fetch(ctx context.Context, at slot, mayMake bool) (seed keys.Secret, err error) {
	record, err := s.config.Store.Get(ctx, at.name())
	switch {
	case err == nil:
		seed, err = s.unwrap(ctx, at, record)
	case keys.ClassOf(err) == keys.ClassMissing && mayMake:
		seed, err = s.make(ctx, at)
	default:
		err = fmt.Errorf("store: %w", err)
	}
	if err == nil {
		s.cache.put(at, seed)
	}
	return seed, err
}

// make stores a new seed, or returns the one that somebody else stored meanwhile.
func (s *Source) make(ctx context.Context, at slot) (keys.Secret, error) {
	seed := keys.RandomSecret(seedSize)
	record, err := s.wrap(ctx, at, seed)
	if err != nil {
		return keys.Secret{}, err
	}
	data, err := record.marshal()
	if err != nil {
		return keys.Secret{}, err
	}
	// Nothing is protected with a key that cannot be had again.
	again, err := s.unwrap(ctx, at, data)
	if err != nil {
		return keys.Secret{}, fmt.Errorf("unwrapping what was just wrapped: %w", err)
	}
	defer again.Wipe()
	if !again.Equal(seed) {
		return keys.Secret{}, keys.Errorf(keys.ClassCorrupted, "the KMS unwrapped something else than it had wrapped")
	}
	err = s.config.Store.Create(ctx, at.name(), data)
	if keys.ClassOf(err) == keys.ClassExists {
		seed.Wipe()
		stored, err := s.config.Store.Get(ctx, at.name())
		if err != nil {
			return keys.Secret{}, fmt.Errorf("store: %w", err)
		}
		return s.unwrap(ctx, at, stored)
	}
	if err != nil {
		return keys.Secret{}, fmt.Errorf("store: %w", err)
	}
	return seed, nil
}

func (s *Source) wrap(ctx context.Context, at slot, seed keys.Secret) (record *Record, err error) {
	var wrapped []byte
	seed.Use(func(b []byte) {
		payload := at.payload(b)
		defer clear(payload)
		wrapped, err = s.config.KEKs[s.newest].Wrap(ctx, payload, at.context())
	})
	if err != nil {
		return nil, fmt.Errorf("KMS: %w", err)
	}
	if len(wrapped) == 0 || len(wrapped) > MaxWrapped {
		return nil, keys.Errorf(keys.ClassCorrupted, "the KMS wrapped a key to %d bytes", len(wrapped))
	}
	return &Record{Format: RecordFormat, Purpose: at.purpose, ID: at.id, Version: at.version, KEK: s.newest, Wrapped: wrapped}, nil
}

func (s *Source) unwrap(ctx context.Context, at slot, data []byte) (keys.Secret, error) {
	record, err := ParseRecord(data)
	if err != nil {
		return keys.Secret{}, err
	}
	if record.Purpose != at.purpose || record.ID != at.id || record.Version != at.version {
		return keys.Secret{}, keys.Errorf(keys.ClassCorrupted, "the record is of another key")
	}
	kms, ok := s.config.KEKs[record.KEK]
	if !ok {
		return keys.Secret{}, keys.Errorf(keys.ClassVersion, "wrapped by version %d of the key encryption key, which is retired", record.KEK)
	}
	payload, err := kms.Unwrap(ctx, record.Wrapped, at.context())
	if err != nil {
		return keys.Secret{}, fmt.Errorf("KMS: %w", err)
	}
	defer clear(payload)
	seed, err := at.open(payload)
	if err != nil {
		return keys.Secret{}, err
	}
	return keys.NewSecret(slices.Clone(seed)), nil
}

// Health asks the newest key encryption key's KMS.
func (s *Source) Health(ctx context.Context) error { return s.config.KEKs[s.newest].Health(ctx) }

// Close wipes the cache and closes the KMSs.
func (s *Source) Close() error {
	s.cache.wipe()
	var errs []error
	for _, kms := range s.config.KEKs {
		errs = append(errs, kms.Close())
	}
	return errors.Join(errs...)
}
