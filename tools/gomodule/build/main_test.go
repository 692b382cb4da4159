// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandName(t *testing.T) {
	for p, want := range map[string]string{
		"example.org/a/cmd/tool":    "tool",
		"example.org/a/v2/cmd/tool": "tool",
		"example.org/tool/v3":       "tool",
		"example.org/vtool":         "vtool",
		"example.org/v":             "v",
	} {
		if got := commandName(p); got != want {
			t.Errorf("%s: got %q, want %q", p, got, want)
		}
	}
}

func TestWithVersion(t *testing.T) {
	goMod := filepath.Join(t.TempDir(), "go.mod")
	if err := os.WriteFile(goMod, []byte("module m\nrequire example.org/one v1.2.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for definition, want := range map[string]string{
		"a.B=plain":                "a.B=plain",
		"a.B=@example.org/one":     "a.B=v1.2.3",
		"a.B=@example.org/missing": "",
	} {
		got, err := withVersion(definition, goMod)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", definition, got, err, want)
		}
	}
}

func TestCopySources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(file, []byte("package main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	module := t.TempDir()
	if err := (&job{sources: []string{"cmd/main.go=" + file}}).copySources(module); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(module, "cmd", "main.go")); err != nil || string(data) != "package main\n" {
		t.Errorf("got %q, %v", data, err)
	}
	for _, source := range []string{"main.go", "../main.go=" + file, "/main.go=" + file} {
		if err := (&job{sources: []string{source}}).copySources(module); err == nil || !strings.Contains(err.Error(), "below the module's folder") {
			t.Errorf("%s: error %v", source, err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"nothing to build":     {nil, "pairs of package and output"},
		"package alone":        {[]string{"example.org/a"}, "pairs of package and output"},
		"toolchain is missing": {[]string{"-go", "missing", "-gomod", os.DevNull, "-gosum", os.DevNull, "example.org/a", "out"}, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(test.args); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v does not say %q", err, test.says)
			}
		})
	}
}
