// SPDX-License-Identifier: Apache-2.0

package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/image/packages/lock"
)

func locked() *lock.Lock {
	return &lock.Lock{
		Archives: []lock.Archive{
			{Name: "debian", ReleaseDate: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
			{Name: "debian-security", ReleaseDate: time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)},
		},
		Packages: []lock.Package{
			{Name: "libone", Version: "1:2+b3", Architecture: "amd64", SHA256: "aa", Source: "one", SourceVersion: "1:2", Licence: "MIT"},
			{Name: "libunused", Version: "1", Architecture: "amd64", SHA256: "bb", Licence: "MIT"},
		},
	}
}

func TestWrite(t *testing.T) {
	// This test is itself a Go program with modules in it.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	programs := []Program{{Path: "/usr/bin/self", Origin: "image/sbom", Content: program}, {Path: "/usr/bin/again", Origin: "image/sbom", Content: program}}
	raw, err := Write("name", locked(), map[string]bool{"libone": true}, programs)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Write("name", locked(), map[string]bool{"libone": true}, programs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, again) {
		t.Error("two documents of the same differ")
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.Creation.Created != "2026-01-02T03:04:05Z" {
		t.Errorf("created %s, want the time of the newest archive", d.Creation.Created)
	}
	ids := map[string]spdxPackage{"SPDXRef-DOCUMENT": {}}
	for _, p := range d.Packages {
		if _, twice := ids[p.ID]; twice {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = p
	}
	if p := ids["SPDXRef-Debian-libone"]; p.Version != "1:2+b3" || p.LicenceDeclared != "MIT" || p.Source != "built from: one 1:2" ||
		p.References[0].Locator != "pkg:deb/debian/libone@1:2%2Bb3?arch=amd64" {
		t.Errorf("package is %+v", p)
	}
	if _, there := ids["SPDXRef-Debian-libunused"]; there {
		t.Error("a package is listed that brought no file")
	}
	links := map[string]bool{}
	for _, r := range d.Relationships {
		for _, end := range []string{r.From, r.To} {
			if _, ok := ids[end]; !ok {
				t.Errorf("a relationship names %s, which is not there", end)
			}
		}
		if r.Type == "STATIC_LINK" {
			links[r.From+" "+ids[r.To].Name] = true
		}
	}
	for _, from := range []string{"SPDXRef-Program--usr-bin-self", "SPDXRef-Program--usr-bin-again"} {
		if !links[from+" stdlib"] {
			t.Errorf("%s does not link Go's standard library", from)
		}
	}
}

func TestWriteRefusesProgramsWithoutModules(t *testing.T) {
	_, err := Write("name", locked(), nil, []Program{{Path: "/usr/bin/text", Content: []byte("text")}})
	if err == nil || !strings.Contains(err.Error(), "/usr/bin/text") {
		t.Errorf("error is %v, want one that names the program", err)
	}
}
