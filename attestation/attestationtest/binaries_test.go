// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package attestationtest

import (
	"debug/elf"
	"debug/gosym"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestNoBinaryLinksATestPackage looks into the programs that ship, as they were
// built: none has a function of a package for tests. (V13)
func TestNoBinaryLinksATestPackage(t *testing.T) {
	binaries := strings.Fields(os.Getenv("BINARIES"))
	if len(binaries) == 0 {
		t.Fatal("$BINARIES names no programs")
	}
	for _, path := range binaries {
		packages := packagesOf(t, path)
		if !slices.Contains(packages, "runtime") || !slices.ContainsFunc(packages, func(p string) bool { return strings.HasPrefix(p, module+"/") }) {
			t.Errorf("%s: the functions of %d packages were found, without the runtime's or our own", path, len(packages))
		}
		for _, p := range packages {
			if strings.HasPrefix(p, module+"/") && strings.HasSuffix(p, "test") || p == "testing" {
				t.Errorf("%s links %s", path, p)
			}
		}
	}
}

// TestFindsATestPackageInABinary shows that the search can fail: this very program
// has packages for tests.
func TestFindsATestPackageInABinary(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	packages := packagesOf(t, self)
	for _, want := range []string{"testing", module + "/attestation/attestationtest"} {
		if !slices.Contains(packages, want) {
			t.Errorf("%s is not found among %d packages", want, len(packages))
		}
	}
}

// packagesOf lists the packages whose functions a Go program has, also where it is
// stripped: the runtime needs the table itself.
func packagesOf(t *testing.T, path string) []string {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	section := f.Section(".gopclntab")
	if section == nil {
		section = f.Section(".data.rel.ro.gopclntab") // of a position-independent program
	}
	if section == nil {
		t.Fatalf("%s is no Go program", path)
	}
	data, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, f.Section(".text").Addr))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range table.Funcs {
		seen[table.Funcs[i].PackageName()] = true
	}
	var out []string
	for p := range seen {
		out = append(out, p)
	}
	return out
}

// Something of this package that the linker cannot leave out.
var _ = NewDevice("").Public()
