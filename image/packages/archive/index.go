// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

const maxPackages = 1 << 20

// A Package is one binary package of an index.
type Package struct {
	Name          string
	Version       version.Version
	Architecture  string
	Source        string
	SourceVersion string
	Archive       string // the archive whose mirrors hold it
	Path          string // relative to the mirror's base
	File
	InstalledSize int64 // bytes, as the package claims

	Depends   dependency.Dependency // Pre-Depends and Depends
	Conflicts dependency.Dependency // Conflicts and Breaks
	Provides  dependency.Dependency
}

// parseIndex reads a Packages file.
func parseIndex(r io.Reader, archiveName string) ([]*Package, error) {
	var packages []*Package
	for stanza, err := range Stanzas(r) {
		if err != nil {
			return nil, err
		}
		p, err := parsePackage(stanza)
		if err != nil {
			return nil, fmt.Errorf("package %q: %w", stanza["package"], err)
		}
		if len(packages) == maxPackages {
			return nil, fmt.Errorf("more than %d packages", maxPackages)
		}
		p.Archive = archiveName
		packages = append(packages, p)
	}
	return packages, nil
}

func parsePackage(s Stanza) (*Package, error) {
	p := &Package{
		Name:         s["package"],
		Architecture: s["architecture"],
		Path:         s["filename"],
		File:         File{SHA256: s["sha256"]},
	}
	var err error
	if p.Version, err = version.Parse(s["version"]); err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	if p.Size, err = strconv.ParseInt(s["size"], 10, 64); err != nil || p.Size <= 0 {
		return nil, fmt.Errorf("size %q is not a positive number", s["size"])
	}
	if kib := s["installed-size"]; kib != "" {
		n, err := strconv.ParseInt(kib, 10, 40)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("installed size %q is not a number", kib)
		}
		p.InstalledSize = n << 10
	}
	switch {
	case !validName(p.Name):
		return nil, fmt.Errorf("malformed name")
	case !validSHA256(p.SHA256):
		return nil, fmt.Errorf("malformed SHA256 %q", p.SHA256)
	case !validPoolPath(p.Path):
		return nil, fmt.Errorf("file name %q is not a path in the pool", p.Path)
	}
	p.Source, p.SourceVersion = p.Name, p.Version.String()
	if source := s["source"]; source != "" {
		name, v, versioned := strings.Cut(source, " (")
		p.Source = name
		if versioned {
			p.SourceVersion = strings.TrimSuffix(v, ")")
		}
	}
	return p, p.parseRelations(s)
}

func (p *Package) parseRelations(s Stanza) error {
	for _, field := range []struct {
		into  *dependency.Dependency
		names []string
	}{
		{&p.Depends, []string{"pre-depends", "depends"}},
		{&p.Conflicts, []string{"conflicts", "breaks"}},
		{&p.Provides, []string{"provides"}},
	} {
		for _, name := range field.names {
			if s[name] == "" {
				continue
			}
			parsed, err := dependency.Parse(s[name])
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			field.into.Relations = append(field.into.Relations, parsed.Relations...)
		}
	}
	return nil
}

// validName follows Debian Policy 5.6.1.
func validName(name string) bool {
	if len(name) < 2 || strings.ContainsAny(name[:1], "+-.") {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

// validPoolPath keeps index entries from leading outside the archive's pool.
func validPoolPath(p string) bool {
	return strings.HasPrefix(p, "pool/") && path.Clean(p) == p && strings.HasSuffix(p, ".deb") &&
		!strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`\?#"'`, r) })
}
