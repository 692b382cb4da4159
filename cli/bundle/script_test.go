// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/bundle"
	"github.com/constellation-os/constellation/cli/command"
	bundles "github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(bundle.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find a small bundle,
// and its component set's digest in $DIGEST.
func TestScripts(t *testing.T) {
	contents := bundletest.Contents(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			b, err := bundles.Create(filepath.Join(env.WorkDir, "bundle"), contents)
			if err != nil {
				return err
			}
			c, _ := b.Set().Image("pause")
			env.Setenv("DIGEST", b.Set().Digest())
			env.Setenv("PAUSE", c.Digest)
			env.Setenv("PAUSE_BLOB", filepath.Join("bundle", "blobs", "sha256", c.Digest[len("sha256:"):]))
			return nil
		},
	})
}
