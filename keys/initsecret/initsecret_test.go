// SPDX-License-Identifier: Apache-2.0

package initsecret_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/keys/initsecret"
)

func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	hash, err := initsecret.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := initsecret.Load(path)
	if err != nil || len(secret) != initsecret.Size || sha256.Sum256(secret) != hash {
		t.Errorf("%d bytes, %v", len(secret), err)
	}
	if _, err := initsecret.Create(path); err == nil || !strings.Contains(err.Error(), "exists and is not overwritten") {
		t.Errorf("a second one: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	good := strings.Repeat("5a", initsecret.Size)
	for _, tc := range []struct {
		name, text, refusal string
		mode                os.FileMode
	}{
		{"without a line's end", good, "", 0o600},
		{"others can read", good, "mode 0640: want a regular file that only its owner can read", 0o640},
		{"short", good[2:], "want 64 hexadecimal digits", 0o600},
		{"long", good + "5a", "want 64 hexadecimal digits", 0o600},
		{"two lines", good + "\n\n", "want 64 hexadecimal digits", 0o600},
		{"no digits", strings.Repeat("x", 64), "want 64 hexadecimal digits", 0o600},
		{"nothing", "", "want 64 hexadecimal digits", 0o600},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
			_, err := initsecret.Load(path)
			if tc.refusal == "" && err != nil || tc.refusal != "" && (err == nil || !strings.Contains(err.Error(), tc.refusal)) {
				t.Errorf("got %v, want %q", err, tc.refusal)
			}
			if err != nil && strings.Contains(err.Error(), "5a5a") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := initsecret.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "want a regular file") {
		t.Errorf("a folder: %v", err)
	}
}
