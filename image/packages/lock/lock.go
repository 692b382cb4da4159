// SPDX-License-Identifier: Apache-2.0

// Package lock holds the exact Debian packages that the image and its build
// tools are made of: name, version, hash, size and place in the archive. The
// file lock.json is written only by the update command, after the archive's
// signatures were verified, and is committed. Whoever has the lock needs to
// trust no mirror: every fetch is checked against it.
//
// The lock holds no host names, and nothing in it says whether a package is
// good; it says which one is meant.
package lock

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Version of the file format.
const Version = 1

// Groups of packages. A package may belong to several.
const (
	Root     = "root"     // unpacked into the image's root file system
	Debug    = "debug"    // in addition, into the root of the debug flavour
	Boot     = "boot"     // kernel and boot stub
	Firmware = "firmware" // firmware of the virtual machine
	Tools    = "tools"    // programs that run while the image is built
)

// A Lock is the content of lock.json.
type Lock struct {
	Version  int       `json:"version"`
	Archives []Archive `json:"archives"`
	Packages []Package `json:"packages"`
}

// An Archive is one suite whose signed release was used.
type Archive struct {
	Name        string    `json:"name"` // which mirrors: "debian" or "debian-security"
	Suite       string    `json:"suite"`
	ReleaseDate time.Time `json:"release_date"`
}

// A Package is one binary package.
type Package struct {
	Name          string   `json:"name"`
	Version       string   `json:"version"`
	Architecture  string   `json:"architecture"`
	SHA256        string   `json:"sha256"`
	Size          int64    `json:"size"`           // bytes of the .deb
	InstalledSize int64    `json:"installed_size"` // bytes unpacked, as the package says
	Archive       string   `json:"archive"`
	Path          string   `json:"path"` // below the archive's base address
	Source        string   `json:"source"`
	SourceVersion string   `json:"source_version"`
	Licence       string   `json:"licence"` // SPDX expression
	Groups        []string `json:"groups"`
}

// In tells whether the package belongs to a group.
func (p *Package) In(group string) bool { return slices.Contains(p.Groups, group) }

// Read reads a lock strictly: unknown fields, duplicate packages and
// malformed entries are errors.
func Read(r io.Reader) (*Lock, error) {
	decoder := json.NewDecoder(io.LimitReader(r, 64<<20))
	decoder.DisallowUnknownFields()
	l := new(Lock)
	if err := decoder.Decode(l); err != nil {
		return nil, fmt.Errorf("package lock: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("package lock: text after the end")
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("package lock: %w", err)
	}
	return l, nil
}

// ReadFile reads the lock in a file.
func ReadFile(name string) (*Lock, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f)
}

func (l *Lock) check() error {
	if l.Version != Version {
		return fmt.Errorf("version %d is not supported, only %d", l.Version, Version)
	}
	seen := map[string]bool{}
	for i := range l.Packages {
		p := &l.Packages[i]
		sum, err := hex.DecodeString(p.SHA256)
		switch {
		case p.Name == "" || seen[p.Name]:
			return fmt.Errorf("package %q: name is empty or occurs twice", p.Name)
		case err != nil || len(sum) != 32:
			return fmt.Errorf("package %q: malformed sha256 %q", p.Name, p.SHA256)
		case p.Size <= 0:
			return fmt.Errorf("package %q: size %d", p.Name, p.Size)
		case !strings.HasPrefix(p.Path, "pool/") || path.Clean(p.Path) != p.Path:
			return fmt.Errorf("package %q: path %q is not in the pool", p.Name, p.Path)
		case len(p.Groups) == 0:
			return fmt.Errorf("package %q belongs to no group", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

// Sort brings the lock into its canonical order.
func (l *Lock) Sort() {
	slices.SortFunc(l.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	for i := range l.Packages {
		slices.Sort(l.Packages[i].Groups)
	}
}

// Marshal gives the canonical bytes of the file.
func (l *Lock) Marshal() ([]byte, error) {
	l.Sort()
	if err := l.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(l); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// WriteFile replaces a file by the lock. The old one stays whole until the new
// one is complete on the disk.
func (l *Lock) WriteFile(name string) error {
	data, err := l.Marshal()
	if err != nil {
		return err
	}
	return ReplaceFile(name, data)
}

// ReplaceFile writes data beside name and renames it into place.
func ReplaceFile(name string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
