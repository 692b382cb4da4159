// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// vectors.json was written by vectors.py beside it, which shares no code with us.
type vectors struct {
	Salt    string `json:"salt"`
	Secrets []struct {
		Version Version `json:"version"`
		Secret  string  `json:"secret"`
	} `json:"secrets"`
	ClusterID string `json:"cluster_id"`
	Keys      []struct {
		Version Version `json:"version"`
		Purpose string  `json:"purpose"`
		ID      string  `json:"id"`
		Length  int     `json:"length"`
		Key     string  `json:"key"`
	} `json:"keys"`
}

func readVectors(t testing.TB) (*vectors, *Keyring) {
	t.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	f := file{Format: FileFormat, Salt: unhex(t, v.Salt)}
	for _, s := range v.Secrets {
		f.Secrets = append(f.Secrets, fileSecret{s.Version, unhex(t, s.Secret)})
	}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return &v, r
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	v, r := readVectors(t)
	if len(v.Keys) == 0 {
		t.Fatal("no vectors")
	}
	seen := map[Purpose]bool{}
	for _, k := range v.Keys {
		got, err := r.DataKey(t.Context(), Purpose(k.Purpose), k.ID, k.Length, k.Version)
		if err != nil {
			t.Errorf("%s/%s: %v", k.Purpose, k.ID, err)
			continue
		}
		if s := hex.EncodeToString(got.Secret.Copy()); s != k.Key || got.Version != k.Version {
			t.Errorf("%s/%s: got version %d, %s, want version %d, %s", k.Purpose, k.ID, got.Version, s, k.Version, k.Key)
		}
		seen[Purpose(k.Purpose)] = true
	}
	for _, p := range Purposes() {
		if !seen[p] {
			t.Errorf("no vector for %s", p)
		}
	}
	if id, err := r.ClusterID(); err != nil || id.String() != v.ClusterID {
		t.Errorf("cluster ID %s, %v, want %s", id, err, v.ClusterID)
	}
}
