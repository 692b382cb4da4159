// SPDX-License-Identifier: Apache-2.0

package evidence_test

import (
	"bytes"
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
	run := func(args ...string) (code int, verdict string) {
		var out bytes.Buffer
		code = command.Run(t.Context(), command.New(evidence.Command(), policy.Command()), args, &out, io.Discard)
		verdict, _, _ = strings.Cut(out.String(), "\n")
		return code, verdict
	}
	if code, _ := run("policy", "create", in("policy.json"), "--measurements", in("measurements.json"), "--not-after", "2099-01-01", "--inventory", in("machines.txt")); code != 0 {
		t.Fatalf("policy create: exit code %d", code)
	}
	for name, size := range map[string]int{"empty": 0, "large": 2 << 20} {
		if err := os.WriteFile(in(name), bytes.Repeat([]byte("A"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, evidence, policy, nonce, secret, response string
		want                                            int
		verdict                                         string
	}{
		{"accepted", "evidence.json", "policy.json", string(nonce), "secret.json", "response", 0, "accepted"},
		{"refused: another TPM", "two.json", "policy.json", string(nonce), "two-secret.json", "two-response", 1, "refused: identity"},
		{"refused: another nonce", "evidence.json", "policy.json", strings.Repeat("00", 32), "secret.json", "response", 1, "refused: binding"},
		{"refused: no evidence at all", "nonce", "policy.json", string(nonce), "secret.json", "response", 1, "refused: malformed"},
		{"refused: no response at all", "evidence.json", "policy.json", string(nonce), "secret.json", "machines.txt", 1, "refused: malformed"},
		{"refused: empty evidence", "empty", "policy.json", string(nonce), "secret.json", "response", 1, "refused: malformed"},
		{"refused: evidence without end", "large", "policy.json", string(nonce), "secret.json", "response", 1, "refused: too-large"},
		{"refused: an empty response", "evidence.json", "policy.json", string(nonce), "secret.json", "empty", 1, "refused: malformed"},
		{"refused: a response without end", "evidence.json", "policy.json", string(nonce), "secret.json", "large", 1, "refused: too-large"},
		{"an empty policy", "evidence.json", "empty", string(nonce), "secret.json", "response", 2, ""},
		{"a secret without end", "evidence.json", "policy.json", string(nonce), "large", "response", 2, ""},
		{"a policy that is none", "evidence.json", "nonce", string(nonce), "secret.json", "response", 2, ""},
		{"a secret that is none", "evidence.json", "policy.json", string(nonce), "response", "response", 2, ""},
		{"a short nonce", "evidence.json", "policy.json", "00", "secret.json", "response", 2, ""},
		{"no such file", "nowhere.json", "policy.json", string(nonce), "secret.json", "response", 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, verdict := run("evidence", "verify", in(tc.evidence), "--policy", in(tc.policy), "--nonce", tc.nonce, "--secret", in(tc.secret), "--response", in(tc.response))
			if got != tc.want || verdict != tc.verdict {
				t.Errorf("exit code %d, %q; want %d, %q", got, verdict, tc.want, tc.verdict)
			}
		})
	}
}
