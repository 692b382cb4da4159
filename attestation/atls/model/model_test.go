// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// The tests need spin and a C compiler.
package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// verdict builds and runs the model's verifier.
func verdict(t *testing.T, defines ...string) (holds bool, output string) {
	t.Helper()
	source, err := filepath.Abs("atls.pml")
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		c := exec.Command(name, args...)
		c.Dir = t.TempDir()
		if name != "spin" {
			c.Dir = filepath.Dir(name)
		}
		return c.Dir + "\n" + must(t, c)
	}
	out := run("spin", append(append([]string{"-a"}, defines...), source)...)
	dir, _, _ := strings.Cut(out, "\n")
	c := exec.Command("cc", "-O1", "-DSAFETY", "-o", "pan", "pan.c")
	c.Dir = dir
	must(t, c)
	output = run(filepath.Join(dir, "pan"), "-E", "-m100000")
	if !strings.Contains(output, "errors: ") || strings.Contains(output, "error: max search depth too small") {
		t.Fatalf("the search did not finish:\n%s", output)
	}
	return strings.Contains(output, "errors: 0"), output
}

func must(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return string(out)
}

// TestModel: the claims hold, and each part of the binding is needed for one.
func TestModel(t *testing.T) {
	if _, err := os.Stat("atls.pml"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		defines []string
		holds   bool
	}{
		{"the protocol", nil, true},
		{"somebody accepts", []string{"-DREACHED"}, false},
		{"without the exporter", []string{"-DNO_EXPORTER"}, false},
		{"without the role", []string{"-DNO_ROLE"}, false},
		{"without nonces, exporters repeat", []string{"-DNO_NONCES", "-DSAME_EXPORTER", "-DONLY_FRESH"}, false},
		{"with nonces, exporters repeat: still fresh", []string{"-DSAME_EXPORTER", "-DONLY_FRESH"}, true},
		{"with nonces, exporters repeat: relayed", []string{"-DSAME_EXPORTER"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			holds, output := verdict(t, tc.defines...)
			if holds != tc.holds {
				t.Errorf("holds: %v, want %v\n%s", holds, tc.holds, output)
			}
		})
	}
}
