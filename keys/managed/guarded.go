// SPDX-License-Identifier: Apache-2.0

package managed

import (
	"context"
	"slices"

	"github.com/constellation-os/constellation/keys"
)

// Guard puts limits around a KMS. Everybody who shares the KMS shares the result.
func Guard(k KMS, l Limits) KMS { return &guardedKMS{k, newGuard(l)} }

type guardedKMS struct {
	kms KMS
	g   *guard
}

func wipeBytes(b []byte) { clear(b) }

func (k *guardedKMS) Wrap(ctx context.Context, key, binding []byte) ([]byte, error) {
	// An attempt may outlive this call, and the caller wipes its key.
	own := keys.NewSecret(slices.Clone(key))
	return call(ctx, k.g, "wrap", nil, func(ctx context.Context) (wrapped []byte, err error) {
		own.Use(func(key []byte) { wrapped, err = k.kms.Wrap(ctx, key, binding) })
		return wrapped, err
	})
}

func (k *guardedKMS) Unwrap(ctx context.Context, wrapped, binding []byte) ([]byte, error) {
	return call(ctx, k.g, "unwrap", wipeBytes, func(ctx context.Context) ([]byte, error) { return k.kms.Unwrap(ctx, wrapped, binding) })
}

func (k *guardedKMS) Describe(ctx context.Context) (*Description, error) {
	return call(ctx, k.g, "describe", nil, k.kms.Describe)
}

// Health is asked once: whoever asks will ask again. It does not wait longer than
// any call for those that hang.
func (k *guardedKMS) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.g.limits.Total)
	defer cancel()
	_, err := try(ctx, k.g, "health", nil, func(ctx context.Context) (struct{}, error) { return struct{}{}, k.kms.Health(ctx) })
	return wrapOperation("health", err)
}

func (k *guardedKMS) Close() error { return k.kms.Close() }

// GuardStore puts limits around a store.
func GuardStore(s Store, l Limits) Store { return &guardedStore{s, newGuard(l)} }

type guardedStore struct {
	store Store
	g     *guard
}

func (s *guardedStore) Get(ctx context.Context, name string) ([]byte, error) {
	return call(ctx, s.g, "get", nil, func(ctx context.Context) ([]byte, error) { return s.store.Get(ctx, name) })
}

// Create may have stored the record at an attempt whose answer was lost. The next
// attempt then finds it there.
func (s *guardedStore) Create(ctx context.Context, name string, record []byte) error {
	_, err := call(ctx, s.g, "create", nil, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.store.Create(ctx, name, record)
	})
	return err
}
