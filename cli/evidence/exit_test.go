// SPDX-License-Identifier: Apache-2.0

package evidence_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/cli/policy"
)

// TestExitCodes: scripts tell by them whether a machine was refused, or nobody judged.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(recorded)); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	nonce, err := os.ReadFile(in("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) int {
		return command.Run(t.Context(), command.New(evidence.Command(), policy.Command()), args, io.Discard, io.Discard)
	}
	if code := run("policy", "create", in("policy.json"), "--measurements", in("measurements.json"), "--not-after", "2099-01-01", "--inventory", in("machines.txt")); code != 0 {
		t.Fatalf("policy create: exit code %d", code)
	}
	for _, tc := range []struct {
		name, evidence, policy, nonce, secret, response string
		want                                            int
	}{
		{"accepted", "evidence.json", "policy.json", string(nonce), "secret.json", "response", 0},
		{"refused: another TPM", "two.json", "policy.json", string(nonce), "two-secret.json", "two-response", 1},
		{"refused: another nonce", "evidence.json", "policy.json", strings.Repeat("00", 32), "secret.json", "response", 1},
		{"refused: no evidence at all", "nonce", "policy.json", string(nonce), "secret.json", "response", 1},
		{"refused: no response at all", "evidence.json", "policy.json", string(nonce), "secret.json", "machines.txt", 1},
		{"a policy that is none", "evidence.json", "nonce", string(nonce), "secret.json", "response", 2},
		{"a secret that is none", "evidence.json", "policy.json", string(nonce), "response", "response", 2},
		{"a short nonce", "evidence.json", "policy.json", "00", "secret.json", "response", 2},
		{"no such file", "nowhere.json", "policy.json", string(nonce), "secret.json", "response", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := run("evidence", "verify", in(tc.evidence), "--policy", in(tc.policy), "--nonce", tc.nonce, "--secret", in(tc.secret), "--response", in(tc.response))
			if got != tc.want {
				t.Errorf("exit code %d, want %d", got, tc.want)
			}
		})
	}
}
