// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// shipped is the configuration in the manifest.
func shipped(t *testing.T) map[string]any {
	t.Helper()
	data, err := os.ReadFile("../../kubernetes/manifests/joinservice.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		var o struct{ Data map[string]string }
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		if text, ok := o.Data["joinservice.json"]; ok {
			var c map[string]any
			if err := json.Unmarshal([]byte(text), &c); err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	t.Fatal("no configuration in the manifest")
	return nil
}

func load(t *testing.T, config map[string]any) (*Config, error) {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "joinservice.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestConfig(t *testing.T) {
	good := shipped(t)
	c, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if c.Limits != DefaultLimits() || c.Listen != "0.0.0.0:9444" {
		t.Errorf("%+v", c)
	}
	for name, tc := range map[string]struct {
		change func(map[string]any)
		says   string
	}{
		"no address":         {func(c map[string]any) { delete(c, "listen") }, "listen is missing"},
		"no TPM":             {func(c map[string]any) { delete(c, "tpm") }, "tpm is missing"},
		"no KeyService":      {func(c map[string]any) { delete(c, "keyservice") }, "keyservice.address is missing"},
		"no limit":           {func(c map[string]any) { c["limits"] = map[string]any{"requests": 0} }, "limits must be positive"},
		"an unknown setting": {func(c map[string]any) { c["allow_all"] = true }, "unknown field"},
	} {
		changed := maps.Clone(good)
		tc.change(changed)
		if _, err := load(t, changed); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	writePKI(t, dir)
	writePKI(t, other)
	if _, err := NewAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(other, "ca.key")); err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("with another's key: %v", err)
	}
	if _, err := NewAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "none")); err == nil {
		t.Error("without a key")
	}
}
