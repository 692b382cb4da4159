// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"os"
	"path/filepath"
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
