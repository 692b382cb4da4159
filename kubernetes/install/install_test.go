// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/kubernetes/componentset"
)

func TestInstall(t *testing.T) {
	b := bundletest.Small(t)
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	root := filepath.Join(t.TempDir(), "root")
	var done, total int64
	in, err := Install(t.Context(), b.Set(), Options{Root: root, Sources: []string{server.URL}, Progress: func(d, n int64, _ string) { done, total = d, n }})
	if err != nil {
		t.Fatal(err)
	}
	if done != total || total != b.Size() {
		t.Errorf("progress ended at %d of %d, want %d", done, total, b.Size())
	}
	for _, name := range []string{"kubelet", "kubeadm"} {
		data, err := os.ReadFile(filepath.Join(root, "current", "bin", name))
		if err != nil || !bytes.Equal(data, bundletest.Kubernetes) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if path, ok := in.Program(name); !ok || path != filepath.Join(in.Dir, "bin", name) {
			t.Errorf("%s is at %q, %v", name, path, ok)
		}
	}
	again, err := Current(root)
	if err != nil || again.Set.Digest() != b.Set().Digest() {
		t.Errorf("current: %v", err)
	}
	server.Close()
	if _, err := Install(t.Context(), b.Set(), Options{Root: root}); err != nil {
		t.Errorf("nothing is to be fetched, and yet: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(root, blobsDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), b.Set(), Options{Root: root}); !errors.Is(err, ErrNoSources) {
		t.Errorf("without sources: %v", err)
	}
}

// TestWrongProgram: a program is run only if it is the set's, however right its image is.
func TestWrongProgram(t *testing.T) {
	b := bundletest.Small(t)
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	for name, change := range map[string]func(*componentset.Component){
		"another digest": func(c *componentset.Component) { c.Digest = "sha256:" + strings.Repeat("0", 64) },
		"shorter":        func(c *componentset.Component) { c.Size-- },
		"longer":         func(c *componentset.Component) { c.Size++ },
	} {
		t.Run(name, func(t *testing.T) {
			components := slices.Clone(b.Set().Components)
			change(&components[slices.IndexFunc(components, func(c componentset.Component) bool { return c.Name == "kubelet" })])
			set, err := componentset.New(b.Set().Kubernetes, components)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			_, err = Install(t.Context(), set, Options{Root: root, Sources: []string{server.URL}})
			if !errors.Is(err, ErrProgram) || !strings.Contains(err.Error(), "program kubelet: ") {
				t.Errorf("got %v", err)
			}
			entries, err := os.ReadDir(filepath.Join(root, setsDir))
			if err != nil || len(entries) != 0 {
				t.Errorf("in place: %v, %v", entries, err)
			}
		})
	}
}
