// SPDX-License-Identifier: Apache-2.0

package mode

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
)

// backends have one KMS and one store, whatever the rest of the URI.
func backends() managed.Backends {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	return managed.Backends{
		KMS: map[string]func(context.Context, string) (managed.KMS, error){
			"memory": func(context.Context, string) (managed.KMS, error) { return kms, nil },
		},
		Stores: map[string]func(context.Context, string) (managed.Store, error){
			"memory": func(context.Context, string) (managed.Store, error) { return store, nil },
		},
	}
}

func userManaged(change func(*UserManaged)) *Config {
	u := &UserManaged{Salt: strings.Repeat("a1", 32), KEKs: []KEK{{1, "memory:a"}, {2, "memory:b"}}, Store: "memory:", Cache: "1m"}
	if change != nil {
		change(u)
	}
	return &Config{UserManaged: u}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.json")
	if err := keys.Generate().Create(path); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[keys.Version]*Config{1: {MasterSecret: path}, 2: userManaged(nil)} {
		s, err := Open(t.Context(), c, backends(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := keys.Get[keys.StateDisk](t.Context(), s, "a", 32, 0); err != nil || k.Version != want {
			t.Errorf("version %d, %v, want %d", k.Version, err, want)
		}
		if err := s.Health(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	both := userManaged(nil)
	both.MasterSecret = "x"
	for says, c := range map[string]*Config{
		"exactly one of":                                 {},
		"exactly one of master_secret":                   both,
		"salt is not 32 bytes":                           userManaged(func(u *UserManaged) { u.Salt = "a1" }),
		"salt is not":                                    userManaged(func(u *UserManaged) { u.Salt = strings.Repeat("x", 64) }),
		"no key encryption key":                          userManaged(func(u *UserManaged) { u.KEKs = nil }),
		"version 0: invalid: versions":                   userManaged(func(u *UserManaged) { u.KEKs[0].Version = 0 }),
		"version 2: invalid: the version is there twice": userManaged(func(u *UserManaged) { u.KEKs[0].Version = 2 }),
		`no KMS of kind "hsm"`:                           userManaged(func(u *UserManaged) { u.KEKs[1].URI = "hsm:x" }),
		`no store of kind "s3"`:                          userManaged(func(u *UserManaged) { u.Store = "s3:x" }),
		"a store is named by a URI":                      userManaged(func(u *UserManaged) { u.Store = "" }),
		`cache "ever"`:                                   userManaged(func(u *UserManaged) { u.Cache = "ever" }),
		`cache "25h"`:                                    userManaged(func(u *UserManaged) { u.Cache = "25h" }),
	} {
		_, err := Open(t.Context(), c, backends(), nil)
		if keys.ClassOf(err) != keys.ClassInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}
