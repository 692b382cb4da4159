// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/cli/bundle"
	"github.com/constellation-os/constellation/cli/command"
	bundles "github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
)

// TestExitCodes: scripts tell by them whether a bundle is damaged, or there is none.
func TestExitCodes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	b, err := bundles.Create(dir, bundletest.Contents(t))
	if err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, args ...string) int {
		return command.Run(ctx, command.New(bundle.Command()), append([]string{"bundle", "verify"}, args...), io.Discard, io.Discard)
	}
	expect := func(what string, want int, args ...string) {
		t.Helper()
		if got := run(t.Context(), args...); got != want {
			t.Errorf("%s: exit code %d, want %d", what, got, want)
		}
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if got := run(interrupted, dir); got != command.ExitError {
		t.Errorf("interrupted: exit code %d", got)
	}
	expect("whole", command.ExitOK, dir)
	expect("the set that is wanted", command.ExitOK, dir, "--digest", b.Set().Digest())
	expect("another set", command.ExitMismatch, dir, "--digest", "sha256:"+strings.Repeat("0", 64))
	expect("no digest", command.ExitError, dir, "--digest", "")
	expect("no bundle", command.ExitError, t.TempDir())
	c, _ := b.Set().Image("kubernetes")
	manifest := filepath.Join(dir, "blobs", "sha256", c.Digest[len("sha256:"):])
	data, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(manifest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("one flipped byte", command.ExitMismatch, dir)
	if err := os.WriteFile(filepath.Join(dir, bundles.SetFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("a broken set", command.ExitError, dir)
}
