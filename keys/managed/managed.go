// SPDX-License-Identifier: Apache-2.0

// Package managed is the user-managed mode: the key encryption key (KEK) stays
// in the user's own KMS or HSM. Data keys come from random seeds, which the KMS
// wraps and a store keeps wrapped.
//
// A [KMS] and a [Store] are small interfaces; each backend is a package of its
// own that implements one. [Backends] opens them by URI. [Guard] and
// [GuardStore] bound what a slow or broken backend can do to its callers.
// [Source] makes the data keys.
//
// Trust boundary: the KMS is trusted, the store is not. It can lose or withhold
// keys, but a wrapped key that was exchanged for another, or changed, is refused:
// what is wrapped begins with a digest of what it is for.
//
// Not guaranteed: that a KMS whose wrapping is not authenticated (RSA encryption,
// for example) tells a seed of the store's own making from ours. And a cached
// seed is used until it expires, even if the KMS has taken the right away.
package managed

import (
	"context"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/keys"
)

// MaxWrapped is the largest wrapped key in bytes.
const MaxWrapped = 8 << 10

// KMS holds one key encryption key and does not give it away. Implementations
// are for one version of the key, and are safe for concurrent use. Their errors
// have one of the classes of an external KMS of package keys; a context that
// ends, ends the call where the backend allows it.
type KMS interface {
	// Wrap encrypts a key of at most 96 bytes. If the backend can, it authenticates
	// the context: Unwrap then succeeds with the same context only.
	Wrap(ctx context.Context, key, context []byte) ([]byte, error)
	// Unwrap decrypts what Wrap returned. The caller wipes the key.
	Unwrap(ctx context.Context, wrapped, context []byte) ([]byte, error)
	// Describe says what the key encryption key is.
	Describe(ctx context.Context) (*Description, error)
	// Health returns nil if Wrap and Unwrap would probably succeed. It is cheap.
	Health(ctx context.Context) error
	io.Closer
}

// Description of a key encryption key. Nothing in it is secret.
type Description struct {
	// KMS is what and where it is, for people.
	KMS string `json:"kms"`
	// KeyID identifies the key and its version within the KMS.
	KeyID string `json:"key_id"`
	// Algorithm of the wrapping.
	Algorithm string `json:"algorithm"`
	// Warnings: what weakens the key's protection, for people.
	Warnings []string `json:"warnings,omitempty"`
}

// Store keeps wrapped keys. It is not trusted. Implementations are safe for
// concurrent use; their errors have a class of package keys.
type Store interface {
	// Get returns a record; [keys.ClassMissing] if there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// Create stores a record under a name that has none; if it has one, nothing is
	// changed and the error has [keys.ClassExists]. Of several at once, one succeeds.
	Create(ctx context.Context, name string, record []byte) error
}

// Backends opens backends by their URI's scheme. Programs say which they link.
type Backends struct {
	KMS    map[string]func(ctx context.Context, uri string) (KMS, error)
	Stores map[string]func(ctx context.Context, uri string) (Store, error)
}

// OpenKMS opens the KMS that a URI names. Errors of the URI have [keys.ClassInvalid].
func (b Backends) OpenKMS(ctx context.Context, uri string) (KMS, error) {
	open, err := find(b.KMS, "KMS", uri)
	if err != nil {
		return nil, err
	}
	return open(ctx, uri)
}

// OpenStore opens the store that a URI names. Errors of the URI have [keys.ClassInvalid].
func (b Backends) OpenStore(ctx context.Context, uri string) (Store, error) {
	open, err := find(b.Stores, "store", uri)
	if err != nil {
		return nil, err
	}
	return open(ctx, uri)
}

// find never quotes more of a URI than its scheme: somebody may have put a credential in it.
func find[T any](backends map[string]T, what, uri string) (none T, err error) {
	var known []string
	for scheme := range backends {
		known = append(known, scheme+":")
	}
	slices.Sort(known)
	scheme, rest, found := strings.Cut(uri, ":")
	if !found || strings.ContainsFunc(scheme, notInScheme) {
		return none, keys.Errorf(keys.ClassInvalid, "a %s is named by a URI that starts with %s", what, strings.Join(known, " or "))
	}
	if authority, ok := strings.CutPrefix(rest, "//"); ok {
		authority, _, _ = strings.Cut(authority, "/")
		if strings.Contains(authority, "@") {
			return none, keys.Errorf(keys.ClassInvalid, "credentials do not belong into a URI: it ends up in logs and configuration")
		}
	}
	open, ok := backends[strings.ToLower(scheme)]
	if !ok {
		return none, keys.Errorf(keys.ClassInvalid, "no %s of kind %.20q in this program: it has %s", what, scheme, strings.Join(known, ", "))
	}
	return open, nil
}

// notInScheme is for what no scheme holds (RFC 3986, section 3.1), and so is none.
func notInScheme(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.", r)
}

// Query takes a URI's query apart. Each name must be one of allowed and be there
// once. Errors have [keys.ClassInvalid] and quote no value.
func Query(query string, allowed ...string) (map[string]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, keys.Errorf(keys.ClassInvalid, "the URI's query cannot be parsed")
	}
	out := map[string]string{}
	for name, v := range values {
		if !slices.Contains(allowed, name) {
			return nil, keys.Errorf(keys.ClassInvalid, "the URI's query has no %.20q; known are %s", name, strings.Join(allowed, ", "))
		}
		if len(v) != 1 {
			return nil, keys.Errorf(keys.ClassInvalid, "the URI's query has %q %d times", name, len(v))
		}
		out[name] = v[0]
	}
	return out, nil
}
