// SPDX-License-Identifier: Apache-2.0

package secretsprovider

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// maxPlaintext is that of what kube-apiserver has encrypted, a seed of 32 bytes.
const maxPlaintext = 64

// Cipher encrypts with a key that has versions.
type Cipher interface {
	// Newest names the key that Encrypt uses. The name is public.
	Newest(ctx context.Context) (keyID string, err error)
	// Health is why a new key is not used though there is one, while the old ones
	// still are.
	Health(ctx context.Context) error
	Encrypt(ctx context.Context, plaintext []byte) (ciphertext []byte, keyID string, err error)
	// Decrypt is given a key's name and a ciphertext that nobody vouches for.
	Decrypt(ctx context.Context, keyID string, ciphertext []byte) ([]byte, error)
}

// Ids of the hierarchy's keys. The second one is public, as part of the key's name:
// it lets a wrong master secret be told from a changed ciphertext.
const (
	keyName         = "kms-v2"
	fingerprintName = "kms-v2-fingerprint"
)

const hierarchyPrefix = "constellation/v1/"

// Hierarchy is a [Cipher] with keys of a source, AES-256-GCM. Each encryption has
// a random nonce; kube-apiserver asks for one when it starts and when a key
// changes, far below the 2^32 that random nonces allow.
func Hierarchy(source Source) Cipher { return hierarchy{source} }

// Source is a [keys.Source] that says how it is.
type Source interface {
	keys.Source
	Health(ctx context.Context) error
}

type hierarchy struct{ source Source }

func (h hierarchy) Health(ctx context.Context) error { return h.source.Health(ctx) }

func (h hierarchy) name(ctx context.Context, version keys.Version) (string, error) {
	k, err := keys.Get[keys.SecretsEncryption](ctx, h.source, fingerprintName, keys.MinLength, version)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d/%s", hierarchyPrefix, k.Version, hex.EncodeToString(k.Copy())), nil
}

func (h hierarchy) Newest(ctx context.Context) (string, error) { return h.name(ctx, 0) }

func (h hierarchy) Encrypt(ctx context.Context, plaintext []byte) ([]byte, string, error) {
	key, err := keys.Get[keys.SecretsEncryption](ctx, h.source, keyName, 32, 0)
	if err != nil {
		return nil, "", err
	}
	defer key.Wipe()
	name, err := h.name(ctx, key.Version)
	if err != nil {
		return nil, "", err
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, "", err
	}
	return aead.Seal(nil, nil, plaintext, []byte(name)), name, nil
}

func (h hierarchy) Decrypt(ctx context.Context, keyID string, ciphertext []byte) ([]byte, error) {
	version, err := parseVersion(hierarchyPrefix, keyID)
	if err != nil {
		return nil, err
	}
	name, err := h.name(ctx, version)
	if err != nil {
		return nil, err
	}
	if name != keyID {
		return nil, keys.Errorf(keys.ClassWrongKey, "encrypted under another master secret than ours: %.80q, ours is %q", keyID, name)
	}
	key, err := keys.Get[keys.SecretsEncryption](ctx, h.source, keyName, 32, version)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, ciphertext, []byte(name))
	if err != nil {
		return nil, keys.Errorf(keys.ClassCorrupted, "the ciphertext was changed")
	}
	return plaintext, nil
}

func newAEAD(key *keys.Key[keys.SecretsEncryption]) (aead cipher.AEAD, err error) {
	key.Use(func(b []byte) {
		var block cipher.Block
		if block, err = aes.NewCipher(b); err == nil {
			aead, err = cipher.NewGCMWithRandomNonce(block)
		}
	})
	return aead, err
}

const managedPrefix = "user-managed/v1/"

// Managed is a [Cipher] of the user's KMS, with nothing in between.
func Managed(salt []byte, keks map[keys.Version]managed.KMS) Cipher {
	c := managedCipher{keks: keks}
	digest := sha256.Sum256(salt)
	c.cluster = hex.EncodeToString(digest[:16])
	for version := range keks {
		c.newest = max(c.newest, version)
	}
	return c
}

type managedCipher struct {
	cluster string
	keks    map[keys.Version]managed.KMS
	newest  keys.Version
}

func (m managedCipher) name(version keys.Version) string {
	return fmt.Sprintf("%s%d/%s", managedPrefix, version, m.cluster)
}

// payload binds what the KMS wraps to the cluster and the version, even if the
// KMS does not authenticate the context.
func payload(name string, plaintext []byte) []byte {
	digest := sha256.Sum256([]byte(name))
	return append(digest[:], plaintext...)
}

// Health has nothing to add to Newest, which asks the KMS.
func (managedCipher) Health(context.Context) error { return nil }

func (m managedCipher) Newest(ctx context.Context) (string, error) {
	return m.name(m.newest), m.keks[m.newest].Health(ctx)
}

func (m managedCipher) Encrypt(ctx context.Context, plaintext []byte) ([]byte, string, error) {
	name := m.name(m.newest)
	p := payload(name, plaintext)
	defer clear(p)
	ciphertext, err := m.keks[m.newest].Wrap(ctx, p, []byte(name))
	return ciphertext, name, err
}

func (m managedCipher) Decrypt(ctx context.Context, keyID string, ciphertext []byte) ([]byte, error) {
	version, err := parseVersion(managedPrefix, keyID)
	if err != nil {
		return nil, err
	}
	kms, ok := m.keks[version]
	if !ok {
		return nil, keys.Errorf(keys.ClassVersion, "version %d of the key encryption key is retired or was never made", version)
	}
	name := m.name(version)
	if name != keyID {
		return nil, keys.Errorf(keys.ClassWrongKey, "encrypted for another cluster: %.80q", keyID)
	}
	p, err := kms.Unwrap(ctx, ciphertext, []byte(name))
	if err != nil {
		return nil, err
	}
	prefix := payload(name, nil)
	if len(p) < len(prefix) || string(p[:len(prefix)]) != string(prefix) {
		clear(p)
		return nil, keys.Errorf(keys.ClassWrongKey, "the KMS unwrapped what was wrapped for something else")
	}
	return p[len(prefix):], nil
}

// parseVersion reads the version out of a key's name.
func parseVersion(prefix, keyID string) (keys.Version, error) {
	rest, ok := strings.CutPrefix(keyID, prefix)
	text, _, found := strings.Cut(rest, "/")
	version, err := strconv.ParseUint(text, 10, 32)
	if !ok || !found || err != nil || version == 0 {
		return 0, keys.Errorf(keys.ClassWrongKey, "no key of ours: %.80q", keyID)
	}
	return keys.Version(version), nil
}
