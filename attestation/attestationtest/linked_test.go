// SPDX-License-Identifier: Apache-2.0

package attestationtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNoProgramLinksATestTechnology follows the imports of every main package,
// for every combination of build tags at once. (V13)
func TestNoProgramLinksATestTechnology(t *testing.T) {
	imports, mains := readModule(t)
	if len(mains) == 0 {
		t.Fatal("no main package found: this test looks in the wrong place")
	}
	for _, main := range mains {
		if path := findTestPackage(imports, main, nil); path != nil {
			t.Errorf("a program links a package for tests: %s", strings.Join(path, " -> "))
		}
	}
}

// TestEveryProgramIsLookedInto: the Bazel test that looks into programs as built has
// all that ship. (V13)
func TestEveryProgramIsLookedInto(t *testing.T) {
	build, err := os.ReadFile("BUILD.bazel")
	if err != nil {
		t.Fatal(err)
	}
	_, mains := readModule(t)
	for _, main := range mains {
		path := strings.TrimPrefix(main, module+"/")
		ships := strings.HasPrefix(path, "cli/") || strings.HasPrefix(path, "services/")
		if ships && !strings.Contains(string(build), `"//`+path+`"`) {
			t.Errorf("BINARIES in attestation/attestationtest/BUILD.bazel lacks //%s", path)
		}
	}
}

// TestFindsATestTechnology shows that the search can fail.
func TestFindsATestTechnology(t *testing.T) {
	imports := map[string][]string{"a/main": {"a/b"}, "a/b": {"a/btest"}}
	want := []string{"a/main", "a/b", "a/btest"}
	if got := findTestPackage(imports, "a/main", nil); !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// findTestPackage returns an import path from a package to one whose last
// element ends in "test", nil if there is none.
func findTestPackage(imports map[string][]string, from string, seen map[string]bool) []string {
	if seen == nil {
		seen = map[string]bool{}
	}
	if seen[from] {
		return nil
	}
	seen[from] = true
	if strings.HasSuffix(from, "test") {
		return []string{from}
	}
	for _, to := range imports[from] {
		if path := findTestPackage(imports, to, seen); path != nil {
			return append([]string{from}, path...)
		}
	}
	return nil
}

// readModule reads the imports within the module of all packages' non-test files.
func readModule(t *testing.T) (imports map[string][]string, mains []string) {
	t.Helper()
	root := moduleRoot(t)
	imports = map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "bazel-") || name == "testdata" || isModule(path)) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := module + "/" + filepath.ToSlash(dir)
		if file.Name.Name == "main" && !slices.Contains(mains, pkg) {
			mains = append(mains, pkg)
		}
		for _, spec := range file.Imports {
			if to, err := strconv.Unquote(spec.Path.Value); err == nil && strings.HasPrefix(to, module+"/") {
				imports[pkg] = append(imports[pkg], to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return imports, mains
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !isModule(dir) {
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test: its sources are not at hand")
		}
		dir = parent
	}
	return dir
}

// TestV15VerifiersAskNobody: what judges evidence has no way to a network, so that no
// service for certificates can hold it up, be down for it, or lie to it. (V15)
func TestV15VerifiersAskNobody(t *testing.T) {
	imports, _ := readModule(t)
	judges := map[string]bool{}
	for _, name := range []string{"attestation/tpm", "attestation/policy", "measurements/policy"} {
		closure(imports, module+"/"+name, judges)
	}
	if len(judges) < 8 {
		t.Fatalf("only %d packages are looked at", len(judges))
	}
	for judge := range judges {
		for _, path := range outside(t, strings.TrimPrefix(judge, module+"/")) {
			if talks(path) {
				t.Errorf("%s imports %s", judge, path)
			}
		}
	}
	// The same search finds a package that asks.
	if !slices.ContainsFunc(outside(t, "services/joinservice"), talks) {
		t.Error("the search is blind")
	}
}

// talks says whether a package is one that reaches a network, or a program that could.
func talks(path string) bool {
	if path == "net/netip" || path == "net/url" || path == "net/mail" {
		return false
	}
	return path == "net" || path == "os/exec" || strings.HasPrefix(path, "net/") || strings.HasPrefix(path, "google.golang.org/grpc") || path == "crypto/tls"
}

// closure adds a package and all that it imports of the module.
func closure(imports map[string][]string, from string, seen map[string]bool) {
	if seen[from] {
		return
	}
	seen[from] = true
	for _, to := range imports[from] {
		closure(imports, to, seen)
	}
}

// outside is what a package's non-test files import from elsewhere.
func outside(t *testing.T, dir string) (paths []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(moduleRoot(t), filepath.FromSlash(dir), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no files: %v", dir, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if to, err := strconv.Unquote(spec.Path.Value); err == nil && !strings.HasPrefix(to, module+"/") {
				paths = append(paths, to)
			}
		}
	}
	return paths
}
