// SPDX-License-Identifier: Apache-2.0

package gomod

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVersion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "go.mod")
	const text = "module m\nrequire example.org/one v1.2.3\nrequire (\n\texample.org/two/v2 v2.0.1 // indirect\n)\nreplace example.org/x => ../x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]string{
		"example.org/one":     "v1.2.3",
		"example.org/two/v2":  "v2.0.1",
		"example.org/missing": "",
		"example.org/x":       "",
	} {
		got, err := Version(file, module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", module, got, err, want)
		}
	}
}
