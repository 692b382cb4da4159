// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFileFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.json")
	r := Generate()
	if err := r.Create(path); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f.now = func() time.Time { return now }
	version := func() Version {
		now = now.Add(2 * reloadPause)
		k, err := Get[StateDisk](t.Context(), f, diskID, 32, 0)
		if err != nil {
			t.Fatal(err)
		}
		return k.Version
	}
	old, err := Get[StateDisk](t.Context(), f, diskID, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	if v := version(); v != 1 {
		t.Errorf("version %d", v)
	}
	if _, err := r.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := r.Replace(path); err != nil {
		t.Fatal(err)
	}
	before := f.ring.secrets[1]
	if v := version(); v != 2 {
		t.Errorf("after the rotation: version %d", v)
	}
	if before.Len() != 0 {
		t.Error("the secrets that were replaced are still there")
	}
	if again, err := Get[StateDisk](t.Context(), f, diskID, 32, 1); err != nil || !again.Equal(old.Secret) {
		t.Errorf("the old version: %v", err)
	}

	// A broken file changes nothing, but is not silent.
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := version(); v != 2 {
		t.Errorf("with a broken file: version %d", v)
	}
	wantClass(t, f.Health(t.Context()), ClassMalformed)
	if err := r.Replace(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * reloadPause)
	if err := f.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if v := version(); v != 2 || !os.IsNotExist(f.Health(t.Context())) {
		t.Errorf("without a file: version %d, %v", v, f.Health(t.Context()))
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	_, err = f.DataKey(t.Context(), PurposeStateDisk, "x", 32, 0)
	wantClass(t, err, ClassVersion)
}

// TestFileRefuses what would give other keys than those handed out before.
func TestFileRefuses(t *testing.T) {
	path := created(t)
	ring, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	copyOf := func(r *Keyring) *Keyring {
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		out, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	old := copyOf(ring)
	ring.Rotate()
	if err := ring.Replace(path); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f.now = func() time.Time { now = now.Add(2 * reloadPause); return now }
	want, err := Get[StateDisk](t.Context(), f, diskID, 32, 2)
	if err != nil {
		t.Fatal(err)
	}
	rotatedTwice := copyOf(old) // by two people, of whom one was first
	rotatedTwice.Rotate()
	otherSalt := copyOf(ring)
	otherSalt.salt[0] ^= 1
	for _, tc := range []struct {
		name, says string
		ring       *Keyring
	}{
		{"another cluster's", "the master secret is of cluster", Generate()},
		{"another salt", "the master secret is of cluster", otherSalt},
		{"an old copy", "ends with version 1, and version 2 was in use", old},
		{"another version 2", "version 2 of the master secret is another one", rotatedTwice},
	} {
		if err := tc.ring.Replace(path); err != nil {
			t.Fatal(err)
		}
		got, err := Get[StateDisk](t.Context(), f, diskID, 32, 2)
		if err != nil || !got.Equal(want.Secret) {
			t.Errorf("%s: the key is another one, %v", tc.name, err)
		}
		err = f.Health(t.Context())
		wantClass(t, err, ClassInvalid)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
	ring.Rotate()
	ring.Retire(1)
	ring.Retire(2)
	if err := ring.Replace(path); err != nil {
		t.Fatal(err)
	}
	if got, err := Get[StateDisk](t.Context(), f, diskID, 32, 0); err != nil || got.Version != 3 || f.Health(t.Context()) != nil {
		t.Errorf("rotated and retired at once: %v, %v", err, f.Health(t.Context()))
	}
}

// TestFileWasAway: the same file, moved away and back, is good again.
func TestFileWasAway(t *testing.T) {
	path := created(t)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f.now = func() time.Time { now = now.Add(2 * reloadPause); return now }
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := f.Health(t.Context()); !os.IsNotExist(err) {
		t.Errorf("while it is away: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := f.Health(t.Context()); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}
