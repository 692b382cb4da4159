// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	top := t.TempDir()
	for name, text := range files {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func tree() map[string]string {
	return map[string]string{
		"MODULE.bazel": `bazel_dep(name = "rules_go", version = "0.60.0")
go_toolchain.pin(
    sha256 = "0123",
    goos = "linux",
    version = "1.26.8",
)
`,
		"image/packages/lock.json": `{"version": 1, "archives": [], "packages": [{"name": "a", "version": "1", "sha256": "` + strings.Repeat("01", 32) +
			`", "size": 1, "path": "pool/a.deb", "groups": ["root"]}]}`,
		"go.sum":             "example.org/b v1.0.0 h1:b=\nexample.org/b v1.0.0/go.mod h1:no=\n",
		"image/other/go.sum": "example.org/b v1.0.0 h1:b=\nexample.org/c v1.0.0 h1:c=\n",
		".cache/go.sum":      "example.org/no v1.0.0 h1:no=\n",
		"x/testdata/go.sum":  "example.org/no v1.0.0 h1:no=\n",
	}
}

func TestList(t *testing.T) {
	got, err := List(writeTree(t, tree()))
	if err != nil {
		t.Fatal(err)
	}
	want := "bazel rules_go 0.60.0 -\n" +
		"debian a 1 sha256:" + strings.Repeat("01", 32) + "\n" +
		"go example.org/b v1.0.0 h1:b=\n" +
		"go example.org/c v1.0.0 h1:c=\n" +
		"sdk go 1.26.8 sha256:0123\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestListRefuses(t *testing.T) {
	for name, test := range map[string]struct{ file, text string }{
		"malformed go.sum":   {"go.sum", "example.org/b v1.0.0\n"},
		"no toolchain":       {"MODULE.bazel", "module(name = \"x\")\n"},
		"toolchain unpinned": {"MODULE.bazel", "go_toolchain.pin(version = \"1.26.8\")\n"},
		"malformed lock":     {"image/packages/lock.json", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			files := tree()
			files[test.file] = test.text
			if got, err := List(writeTree(t, files)); err == nil {
				t.Errorf("no error but %q", got)
			}
		})
	}
}
