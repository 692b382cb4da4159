// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"sync"
)

// maxVersions bounds how many versions of a master secret are kept.
const maxVersions = 64

// clusterIDLabel separates the cluster ID from every data key: no purpose is called "cluster-id".
const clusterIDLabel = labelPrefix + "cluster-id"

// Keyring holds a master secret in one or more versions. It is a [Source] and
// may be used by several goroutines at once.
type Keyring struct {
	mu          sync.RWMutex
	salt        []byte
	secrets     map[Version]Secret
	newest      Version
	measurement Secret // nil unless version 1 is retired
}

// Generate makes a keyring with a random salt and a random master secret, version 1.
func Generate() *Keyring {
	salt := make([]byte, SaltSize)
	rand.Read(salt) // never fails
	return &Keyring{
		salt:    salt,
		secrets: map[Version]Secret{1: RandomSecret(MasterSecretSize)},
		newest:  1,
	}
}

// Versions lists the versions that keys can be derived from, oldest first.
func (r *Keyring) Versions() []Version {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.secrets))
}

// DataKey implements [Source]. Version 0 is the newest. The measurement secret
// has version 1 only.
func (r *Keyring) DataKey(_ context.Context, purpose Purpose, id string, length int, version Version) (*DataKey, error) {
	if err := Check(purpose, id, length); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if version == 0 {
		version = r.newest
		if purpose == PurposeMeasurement {
			version = 1
		}
	}
	secret, err := r.derive(purpose, id, length, version)
	if err != nil {
		return nil, err
	}
	return &DataKey{Purpose: purpose, ID: id, Version: version, Secret: secret}, nil
}

func (r *Keyring) derive(purpose Purpose, id string, length int, version Version) (Secret, error) {
	if purpose == PurposeMeasurement {
		if version != 1 {
			return Secret{}, Errorf(ClassVersion, "the measurement secret has version 1 only, not %d", version)
		}
		return r.measurementSecret()
	}
	master, ok := r.secrets[version]
	if !ok {
		return Secret{}, Errorf(ClassVersion, "the master secret has no version %d: it is retired or was never made", version)
	}
	return Expand(master, r.salt, purpose, id, length)
}

func (r *Keyring) measurementSecret() (Secret, error) {
	if r.measurement.p != nil {
		return NewSecret(r.measurement.Copy()), nil
	}
	return Expand(r.secrets[1], r.salt, PurposeMeasurement, MeasurementID, MeasurementSize)
}

// Rotate adds a new random version, which becomes the newest.
func (r *Keyring) Rotate() (Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.secrets) >= maxVersions {
		return 0, Errorf(ClassInvalid, "at most %d versions are kept: retire some", maxVersions)
	}
	if r.newest == math.MaxUint32 {
		return 0, Errorf(ClassInvalid, "there is no version after %d", r.newest)
	}
	r.newest++
	r.secrets[r.newest] = RandomSecret(MasterSecretSize)
	return r.newest, nil
}

// Retire forgets a version that is not the newest. Keys of that version can then
// never be derived again: re-encrypt or re-key what they protect first. The
// cluster's identity stays. Errors have [ClassVersion].
func (r *Keyring) Retire(version Version) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	secret, ok := r.secrets[version]
	switch {
	case !ok:
		return Errorf(ClassVersion, "the master secret has no version %d", version)
	case version == r.newest:
		return Errorf(ClassVersion, "version %d is the newest: new keys come from it", version)
	}
	if version == 1 {
		m, err := r.measurementSecret()
		if err != nil {
			return err
		}
		r.measurement = m
	}
	delete(r.secrets, version)
	secret.Wipe()
	return nil
}

// ClusterID is the cluster's public identity. Nodes extend PCR 15 with it.
type ClusterID [32]byte

// String is the identity in hexadecimal.
func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// NewClusterID derives the identity from the measurement secret and the salt.
func NewClusterID(measurement *Key[Measurement], salt []byte) (id ClusterID, err error) {
	out, err := expand(measurement.Secret, salt, clusterIDLabel, len(id))
	if err != nil {
		return ClusterID{}, err
	}
	out.Use(func(b []byte) { copy(id[:], b) })
	return id, nil
}

// ClusterID is the identity of the keyring's cluster.
func (r *Keyring) ClusterID() (ClusterID, error) {
	m, err := Get[Measurement](context.Background(), r, MeasurementID, MeasurementSize, 0)
	if err != nil {
		return ClusterID{}, err
	}
	defer m.Wipe()
	return NewClusterID(m, r.Salt())
}

// Salt is the cluster's salt, which is not secret.
func (r *Keyring) Salt() []byte { return slices.Clone(r.salt) }

// Wipe overwrites all secrets. The keyring then derives nothing.
func (r *Keyring) Wipe() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.secrets {
		s.Wipe()
	}
	r.measurement.Wipe()
	r.secrets, r.measurement = nil, Secret{}
}
