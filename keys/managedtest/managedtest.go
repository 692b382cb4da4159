// SPDX-License-Identifier: Apache-2.0

// Package managedtest is a KMS and a store for tests: they work in memory, and
// fail when and how a test wants. They protect nothing. No program that ships may
// link this package.
package managedtest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"slices"
	"sync"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// KMS is a [managed.KMS].
type KMS struct {
	// Fault, if set, is called for each operation ("wrap", "unwrap", "describe",
	// "health"), and fails or delays it. It must not be changed while others call.
	Fault func(ctx context.Context, operation string) error
	// Garble, if set, changes what wrap and unwrap return.
	Garble func(operation string, out []byte) []byte

	aead  cipher.AEAD
	mu    sync.Mutex
	calls map[string]int
}

// NewKMS makes a KMS with a random key.
func NewKMS() *KMS {
	key := make([]byte, 32)
	rand.Read(key)
	return NewKMSWithKey(key)
}

// NewKMSWithKey makes a KMS with a given AES key.
func NewKMSWithKey(key []byte) *KMS {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &KMS{aead: aead, calls: map[string]int{}}
}

// Calls is how often an operation was begun.
func (k *KMS) Calls(operation string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[operation]
}

func (k *KMS) begin(ctx context.Context, operation string) error {
	k.mu.Lock()
	k.calls[operation]++
	k.mu.Unlock()
	if k.Fault != nil {
		return k.Fault(ctx, operation)
	}
	return nil
}

func (k *KMS) end(operation string, out []byte) []byte {
	if k.Garble != nil {
		return k.Garble(operation, out)
	}
	return out
}

// Wrap implements [managed.KMS].
func (k *KMS) Wrap(ctx context.Context, key, binding []byte) ([]byte, error) {
	if err := k.begin(ctx, "wrap"); err != nil {
		return nil, err
	}
	return k.end("wrap", k.aead.Seal(nil, nil, key, binding)), nil
}

// Unwrap implements [managed.KMS].
func (k *KMS) Unwrap(ctx context.Context, wrapped, binding []byte) ([]byte, error) {
	if err := k.begin(ctx, "unwrap"); err != nil {
		return nil, err
	}
	out, err := k.aead.Open(nil, nil, wrapped, binding)
	if err != nil {
		return nil, keys.Errorf(keys.ClassWrongKey, "authentication failed")
	}
	return k.end("unwrap", out), nil
}

// Describe implements [managed.KMS].
func (k *KMS) Describe(ctx context.Context) (*managed.Description, error) {
	if err := k.begin(ctx, "describe"); err != nil {
		return nil, err
	}
	return &managed.Description{KMS: "memory", KeyID: "test", Algorithm: "AES-256-GCM"}, nil
}

// Health implements [managed.KMS].
func (k *KMS) Health(ctx context.Context) error { return k.begin(ctx, "health") }

// Close implements [managed.KMS].
func (k *KMS) Close() error { return nil }

// Store is a [managed.Store].
type Store struct {
	// Fault is like that of KMS; the operations are "get" and "create".
	Fault func(ctx context.Context, operation string) error

	mu      sync.Mutex
	records map[string][]byte
}

// NewStore makes an empty store.
func NewStore() *Store { return &Store{records: map[string][]byte{}} }

// Get implements [managed.Store].
func (s *Store) Get(ctx context.Context, name string) ([]byte, error) {
	if s.Fault != nil {
		if err := s.Fault(ctx, "get"); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	record, ok := s.records[name]
	if !ok {
		return nil, keys.Errorf(keys.ClassMissing, "no such record")
	}
	return slices.Clone(record), nil
}

// Create implements [managed.Store].
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	if s.Fault != nil {
		if err := s.Fault(ctx, "create"); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.records[name]; ok {
		return keys.Errorf(keys.ClassExists, "the record exists")
	}
	s.records[name] = slices.Clone(record)
	return nil
}

// Names lists the records.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.records {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Replace changes a record behind everybody's back, as the store's owner can.
func (s *Store) Replace(name string, record []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name] = record
}
