// SPDX-License-Identifier: Apache-2.0

//go:build e2e && cgo

package pkcs11

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	"github.com/constellation-os/constellation/keys/softhsmtest"
)

func open(t testing.TB, uri string) managed.KMS {
	t.Helper()
	k, err := Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func wantClass(t testing.TB, err error, want keys.Class, says string) {
	t.Helper()
	if got := keys.ClassOf(err); got != want {
		t.Errorf("got class %q (%v), want %q", got, err, want)
	}
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%q does not say %q", err, says)
	}
	if err != nil && strings.Contains(err.Error(), softhsmtest.PIN) {
		t.Errorf("%q holds the PIN", err)
	}
}

var (
	key     = bytes.Repeat([]byte("key-"), 16)
	binding = []byte("what the key is for")
)

func TestWrap(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	hsm.Key(t, "prod", "other", 2)
	k, other := open(t, hsm.URI("prod", "kek")), open(t, hsm.URI("prod", "other"))
	wrapped, err := k.Wrap(t.Context(), key, binding)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, key[:8]) {
		t.Error("the wrapped key holds the key")
	}
	if got, err := k.Unwrap(t.Context(), wrapped, binding); err != nil || !bytes.Equal(got, key) {
		t.Errorf("unwrapped to %d bytes, %v", len(got), err)
	}
	if again, err := k.Wrap(t.Context(), key, binding); err != nil || bytes.Equal(again, wrapped) {
		t.Errorf("wrapping twice gives the same: %v", err)
	}

	changed := slices.Clone(wrapped)
	changed[20] ^= 1
	_, err = k.Unwrap(t.Context(), changed, binding)
	wantClass(t, err, keys.ClassWrongKey, "authentication failed")
	_, err = k.Unwrap(t.Context(), wrapped, []byte("something else"))
	wantClass(t, err, keys.ClassWrongKey, "authentication failed")
	_, err = other.Unwrap(t.Context(), wrapped, binding)
	wantClass(t, err, keys.ClassWrongKey, "authentication failed")
	for _, b := range [][]byte{nil, wrapped[:20], append([]byte{2}, wrapped[1:]...), append(wrapped, make([]byte, 100)...)} {
		_, err = k.Unwrap(t.Context(), b, binding)
		wantClass(t, err, keys.ClassCorrupted, "not a wrapped key")
	}
	_, err = k.Wrap(t.Context(), make([]byte, 97), binding)
	wantClass(t, err, keys.ClassInvalid, "97 bytes")
	if got, err := k.Unwrap(t.Context(), wrapped, binding); err != nil || !bytes.Equal(got, key) {
		t.Errorf("after all that: unwrapped to %d bytes, %v", len(got), err)
	}
}

func TestManyCallers(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	k := open(t, hsm.URI("prod", "kek"))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 10 {
				wrapped, err := k.Wrap(t.Context(), key, binding)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := k.Unwrap(t.Context(), wrapped, binding); err != nil || !bytes.Equal(got, key) {
					t.Errorf("unwrapped to %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDescribe(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	hsm.Key(t, "prod", "weak", 2, p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_SENSITIVE, false),
		p11.NewAttribute(p11.CKA_VALUE_LEN, 16), p11.NewAttribute(p11.CKA_DECRYPT, false))
	d, err := open(t, hsm.URI("prod", "kek")).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.KMS, `PKCS#11 token "prod", SoftHSM project SoftHSM v2`) || d.Algorithm != "AES-256-GCM" ||
		!strings.HasSuffix(d.KeyID, ";object=kek") || len(d.Warnings) != 0 {
		t.Errorf("described as %+v", d)
	}
	weak := open(t, hsm.URI("prod", "weak"))
	if d, err = weak.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(d.Warnings, "\n")
	for _, want := range []string{"CKA_DECRYPT", "CKA_EXTRACTABLE", "CKA_SENSITIVE", "shorter than 256 bits"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning of %s in %q", want, all)
		}
	}
	wantClass(t, weak.Health(t.Context()), keys.ClassKeyDisabled, "CKA_ENCRYPT and CKA_DECRYPT")
}

func TestFaults(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	hsm.Key(t, "prod", "twice", 2)
	hsm.Key(t, "prod", "twice", 3)
	hsm.Key(t, "prod", "reader", 4, p11.NewAttribute(p11.CKA_ENCRYPT, false))
	wrongPIN := hsm.PINFile + ".wrong"
	if err := os.WriteFile(wrongPIN, []byte("not the PIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	uri := hsm.URI("prod", "kek")
	for _, tc := range []struct {
		name, uri string
		want      keys.Class
		says      string
	}{
		{"no such token", hsm.URI("dev", "kek"), keys.ClassUnreachable, "no token matches pkcs11:token=dev"},
		{"no such key", hsm.URI("prod", "x"), keys.ClassKeyMissing, "no secret key"},
		{"two keys", hsm.URI("prod", "twice"), keys.ClassInvalid, "more than one key"},
		{"a key that may not encrypt", hsm.URI("prod", "reader"), keys.ClassKeyDisabled, "needs CKA_ENCRYPT"},
		{"a wrong PIN", strings.Replace(uri, hsm.PINFile, wrongPIN, 1), keys.ClassNotPermitted, "refuses the PIN"},
		{"no PIN", strings.Split(uri, "&")[0], keys.ClassNotPermitted, "wants a PIN"},
		{"no PIN file", uri + ".gone", keys.ClassNotPermitted, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := open(t, tc.uri).Wrap(t.Context(), key, binding)
			wantClass(t, err, tc.want, tc.says)
		})
	}
	_, err := Open(t.Context(), strings.Replace(uri, softhsmtest.Module, "/nonexistent.so", 1))
	wantClass(t, err, keys.ClassInvalid, "no such file")
	_, err = Open(t.Context(), strings.Replace(uri, softhsmtest.Module, hsm.PINFile, 1))
	wantClass(t, err, keys.ClassInvalid, "cannot be loaded")
}

// TestWrongPINIsTriedOnce: a token that counts wrong PINs must not be locked by us.
func TestWrongPINIsTriedOnce(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	good, err := os.ReadFile(hsm.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(pin []byte) {
		if err := os.WriteFile(hsm.PINFile, pin, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("not the PIN"))
	k := open(t, hsm.URI("prod", "kek"))
	wantClass(t, k.Health(t.Context()), keys.ClassNotPermitted, "refuses the PIN")
	write(good)
	wantClass(t, k.Health(t.Context()), keys.ClassNotPermitted, "not tried again")
	if err := open(t, hsm.URI("prod", "kek")).Health(t.Context()); err != nil {
		t.Errorf("opened again with the right PIN: %v", err)
	}
}

func TestKeyDeletedAndBack(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	k := open(t, hsm.URI("prod", "kek"))
	wrapped, err := k.Wrap(t.Context(), key, binding)
	if err != nil {
		t.Fatal(err)
	}
	hsm.Destroy(t, "prod", "kek")
	for range 2 {
		_, err = k.Unwrap(t.Context(), wrapped, binding)
		wantClass(t, err, keys.ClassKeyMissing, "")
	}
	hsm.Key(t, "prod", "kek", 1)
	_, err = k.Unwrap(t.Context(), wrapped, binding)
	wantClass(t, err, keys.ClassWrongKey, "authentication failed")
	if _, err := k.Wrap(t.Context(), key, binding); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	k, other := open(t, hsm.URI("prod", "kek")), open(t, hsm.URI("prod", "kek"))
	if err := errors.Join(k.Health(t.Context()), k.Close(), k.Close()); err != nil {
		t.Fatal(err)
	}
	wantClass(t, k.Health(t.Context()), keys.ClassInternal, "the HSM was closed")
	if err := other.Health(t.Context()); err != nil {
		t.Errorf("closing one closes the other: %v", err)
	}
}

// TestUserManagedMode is the whole mode with a real HSM: keys come back, also
// after a rotation, and not when the HSM's key is another.
func TestUserManagedMode(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek-1", 1)
	hsm.Key(t, "prod", "kek-2", 2)
	store, salt := managedtest.NewStore(), bytes.Repeat([]byte("salt"), 8)
	source := func(labels ...string) *managed.Source {
		c := managed.Config{Salt: salt, Store: store, KEKs: map[keys.Version]managed.KMS{}}
		for i, label := range labels {
			c.KEKs[keys.Version(i+1)] = managed.Guard(open(t, hsm.URI("prod", label)), managed.DefaultLimits())
		}
		s, err := managed.NewSource(c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	get := func(s *managed.Source, version keys.Version) (*keys.Key[keys.StateDisk], error) {
		return keys.Get[keys.StateDisk](t.Context(), s, "disk", 32, version)
	}
	first, err := get(source("kek-1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	both := source("kek-1", "kek-2")
	old, err := get(both, 1)
	if err != nil || !old.Equal(first.Secret) {
		t.Errorf("after the rotation, the old key: %v", err)
	}
	if fresh, err := get(both, 0); err != nil || fresh.Version != 2 || fresh.Equal(first.Secret) {
		t.Errorf("after the rotation, the new key: version %d, %v", fresh.Version, err)
	}
	_, err = get(source("kek-2"), 1)
	wantClass(t, err, keys.ClassWrongKey, "authentication failed")
}

func BenchmarkHSM(b *testing.B) {
	hsm := softhsmtest.New(b)
	hsm.Token(b, "prod")
	hsm.Key(b, "prod", "kek", 1)
	k := open(b, hsm.URI("prod", "kek"))
	wrapped, err := k.Wrap(b.Context(), key, binding)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("unwrap", func(b *testing.B) {
		for b.Loop() {
			if _, err := k.Unwrap(b.Context(), wrapped, binding); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("data key", func(b *testing.B) {
		s, err := managed.NewSource(managed.Config{
			Salt: bytes.Repeat([]byte("salt"), 8), Store: managedtest.NewStore(),
			KEKs: map[keys.Version]managed.KMS{1: managed.Guard(k, managed.DefaultLimits())},
		})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := s.DataKey(b.Context(), keys.PurposeStateDisk, "disk", 32, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestTokenGoneAndBack: the HSM is taken away under a program that runs.
func TestTokenGoneAndBack(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	k := open(t, hsm.URI("prod", "kek"))
	wrapped, err := k.Wrap(t.Context(), key, binding)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(hsm.Tokens, hsm.Tokens+".away"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err = k.Unwrap(t.Context(), wrapped, binding)
		wantClass(t, err, keys.ClassUnreachable, "")
	}
	if err := os.Rename(hsm.Tokens+".away", hsm.Tokens); err != nil {
		t.Fatal(err)
	}
	guarded := managed.Guard(k, managed.DefaultLimits())
	if got, err := guarded.Unwrap(t.Context(), wrapped, binding); err != nil || !bytes.Equal(got, key) {
		t.Errorf("once it is back: %d bytes, %v", len(got), err)
	}
}
