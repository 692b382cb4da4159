// SPDX-License-Identifier: Apache-2.0

package keys

import "context"

// Version numbers the versions of a master secret, or of a key encryption key,
// from 1 on. 0 asks for the newest.
type Version uint32

// DataKey is a key whose purpose is known at run time only.
type DataKey struct {
	Purpose Purpose
	ID      string
	Version Version
	Secret  Secret
}

// Key is a data key for the purpose P. Keys for different purposes have
// different types, which cannot be assigned or converted to each other.
type Key[P Kind] struct {
	Secret
	// Version must be asked for to get the same key again.
	Version Version
	id      string
	_       [0]P // without it, the conversion would be legal
}

// ID is what the key is for.
func (k *Key[P]) ID() string { return k.id }

// Source makes or finds data keys. Its errors have a [Class].
type Source interface {
	// DataKey returns the key for a purpose and id in one version; version 0 is the newest.
	DataKey(ctx context.Context, purpose Purpose, id string, length int, version Version) (*DataKey, error)
}

// Get asks a source for a key whose purpose is known at compile time.
func Get[P Kind](ctx context.Context, s Source, id string, length int, version Version) (*Key[P], error) {
	var kind P
	k, err := s.DataKey(ctx, kind.Purpose(), id, length, version)
	if err != nil {
		return nil, err
	}
	if k.Purpose != kind.Purpose() || k.ID != id || k.Secret.Len() != length {
		k.Secret.Wipe()
		return nil, Errorf(ClassInternal, "the source made a key for %s/%s, not %s/%s", k.Purpose, k.ID, kind.Purpose(), id)
	}
	return &Key[P]{Secret: k.Secret, Version: k.Version, id: id}, nil
}
