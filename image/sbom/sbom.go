// SPDX-License-Identifier: Apache-2.0

// Package sbom writes what an image is made of, as an SPDX 2.3 document in JSON.
//
// Listed are the Debian packages that brought at least one file, from the lock, and our programs with the Go modules
// that are linked into them, as the programs say themselves. The hash of each single file is in root.files.json beside
// it. Equal inputs give an equal document: its time is that of the newest package archive that the lock names.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/constellation-os/constellation/image/packages/lock"
)

// Program is a program of ours in the image.
type Program struct {
	// Path is its place in the root, Origin the folder of this repository that it comes from.
	Path, Origin string
	Content      []byte
}

// Fields of the format, SPDX specification 2.3, clauses 6, 7 and 11.
type document struct {
	Version       string         `json:"spdxVersion"`
	DataLicence   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Licences      []licence      `json:"hasExtractedLicensingInfos,omitempty"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type licence struct {
	ID   string `json:"licenseId"`
	Name string `json:"name"`
	Text string `json:"extractedText"`
}

type spdxPackage struct {
	ID               string      `json:"SPDXID"`
	Name             string      `json:"name"`
	Version          string      `json:"versionInfo,omitempty"`
	Purpose          string      `json:"primaryPackagePurpose,omitempty"`
	FileName         string      `json:"packageFileName,omitempty"`
	Source           string      `json:"sourceInfo,omitempty"`
	Download         string      `json:"downloadLocation"`
	FilesAnalysed    bool        `json:"filesAnalyzed"`
	LicenceConcluded string      `json:"licenseConcluded"`
	LicenceDeclared  string      `json:"licenseDeclared"`
	Copyright        string      `json:"copyrightText"`
	Checksums        []checksum  `json:"checksums,omitempty"`
	References       []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// Write returns the document. used says which packages of the lock have files in the image.
func Write(name string, locked *lock.Lock, used map[string]bool, programs []Program) ([]byte, error) {
	d := document{
		Version: "SPDX-2.3", DataLicence: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		Creation: creation{Created: newest(locked), Creators: []string{"Tool: constellation-mksbom"}},
		Licences: []licence{{
			ID: "LicenseRef-Debian-copyright", Name: "see the package's copyright file",
			Text: "Terms that have no identifier in the SPDX licence list; they are in usr/share/doc/NAME/copyright of the Debian package.",
		}},
		Packages: []spdxPackage{{
			ID: "SPDXRef-Image", Name: name, Purpose: "OPERATING-SYSTEM", Download: noAssertion,
			LicenceConcluded: noAssertion, LicenceDeclared: noAssertion, Copyright: noAssertion,
		}},
		Relationships: []relationship{{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"}},
	}
	for _, p := range locked.Packages {
		if used[p.Name] {
			d.contain(debianPackage(p))
		}
	}
	modules := map[string]bool{}
	for _, program := range programs {
		if err := d.addProgram(program, modules); err != nil {
			return nil, err
		}
	}
	// The namespace has to be unique to the document and must not depend on where or when it is written.
	content, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(content)
	d.Namespace = "urn:sha256:" + hex.EncodeToString(digest[:])
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	err = encoder.Encode(d)
	return out.Bytes(), err
}

func newest(locked *lock.Lock) string {
	var newest time.Time
	for _, archive := range locked.Archives {
		if archive.ReleaseDate.After(newest) {
			newest = archive.ReleaseDate
		}
	}
	return newest.UTC().Format(time.RFC3339)
}

func (d *document) contain(p spdxPackage) {
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, relationship{"SPDXRef-Image", "CONTAINS", p.ID})
}

func debianPackage(p lock.Package) spdxPackage {
	return spdxPackage{
		ID: "SPDXRef-Debian-" + identifier(p.Name), Name: p.Name, Version: p.Version, FileName: p.Path,
		Source:   fmt.Sprintf("built from: %s %s", p.Source, p.SourceVersion),
		Download: noAssertion, LicenceConcluded: noAssertion, LicenceDeclared: p.Licence, Copyright: noAssertion,
		Checksums: []checksum{{"SHA256", p.SHA256}},
		References: []reference{{"PACKAGE-MANAGER", "purl", fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s",
			p.Name, strings.ReplaceAll(p.Version, "+", "%2B"), p.Architecture)}},
	}
}

// addProgram lists a program and the modules in it; modules holds those that are listed already.
func (d *document) addProgram(program Program, modules map[string]bool) error {
	digest := sha256.Sum256(program.Content)
	id := "SPDXRef-Program-" + identifier(strings.ReplaceAll(program.Path, "/", "-"))
	d.contain(spdxPackage{
		ID: id, Name: program.Path, Purpose: "APPLICATION", Source: "built from: " + program.Origin,
		Download: noAssertion, LicenceConcluded: noAssertion, LicenceDeclared: noAssertion, Copyright: noAssertion,
		Checksums: []checksum{{"SHA256", hex.EncodeToString(digest[:])}},
	})
	info, err := buildinfo.Read(bytes.NewReader(program.Content))
	if err != nil {
		return fmt.Errorf("%s: %w", program.Path, err)
	}
	type module struct{ path, version string }
	linked := []module{{"stdlib", strings.TrimPrefix(info.GoVersion, "go")}}
	if info.Main.Path != "" && info.Main.Version != "(devel)" {
		linked = append(linked, module{info.Main.Path, info.Main.Version})
	}
	for _, dependency := range info.Deps {
		if dependency.Replace != nil {
			dependency = dependency.Replace
		}
		linked = append(linked, module{dependency.Path, dependency.Version})
	}
	slices.SortFunc(linked, func(a, b module) int { return strings.Compare(a.path+a.version, b.path+b.version) })
	for _, m := range linked {
		moduleID := "SPDXRef-Go-" + identifier(m.path+"-"+m.version)
		if !modules[moduleID] {
			modules[moduleID] = true
			d.Packages = append(d.Packages, spdxPackage{
				ID: moduleID, Name: m.path, Version: m.version, Purpose: "LIBRARY", Download: noAssertion,
				LicenceConcluded: noAssertion, LicenceDeclared: noAssertion, Copyright: noAssertion,
				References: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.path + "@" + m.version}},
			})
		}
		d.Relationships = append(d.Relationships, relationship{id, "STATIC_LINK", moduleID})
	}
	return nil
}

// identifier makes a part of an SPDX identifier, which has letters, digits, dots and hyphens only.
func identifier(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, text)
}
