// SPDX-License-Identifier: Apache-2.0

package componentset

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/constellation-os/constellation/measurements/printable"
)

const digestPrefix = "sha256:"

var (
	// A path component of an OCI repository's name, without the separators that nobody here needs.
	namePattern    = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	digestPattern  = regexp.MustCompile(`^` + digestPrefix + `[0-9a-f]{64}$`)
	versionPattern = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+$`)
	pathPattern    = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)
)

// IsDigest says whether s is a SHA-256 digest as OCI writes it.
func IsDigest(s string) bool { return digestPattern.MatchString(s) }

// IsName says whether s can be the name of a component.
func IsName(s string) bool { return len(s) <= MaxText && namePattern.MatchString(s) }

func (s *Set) check() error {
	switch {
	case s.Format != Format:
		return ErrFormat
	case len(s.Kubernetes) > MaxText || !versionPattern.MatchString(s.Kubernetes):
		return fmt.Errorf("kubernetes: %w: want one as v1.2.3", ErrVersion)
	case len(s.Components) == 0:
		return ErrEmpty
	case len(s.Components) > MaxComponents:
		return fmt.Errorf("%w: %d components, at most %d", ErrTooLarge, len(s.Components), MaxComponents)
	}
	previous := ""
	for i, c := range s.Components {
		if !IsName(c.Name) {
			return fmt.Errorf("component %d: %w: want lower-case letters, digits and single dashes", i, ErrName)
		}
		if c.Name <= previous {
			return fmt.Errorf("%s: %w", c.Name, ErrOrder)
		}
		previous = c.Name
		if err := s.checkComponent(c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return s.checkInstallPaths()
}

func (s *Set) checkComponent(c Component) error {
	if c.Version == "" || !printable.Is(c.Version, MaxText) {
		return ErrVersion
	}
	if !IsDigest(c.Digest) {
		return fmt.Errorf("%w: want sha256: and 64 lower-case hexadecimal digits", ErrDigest)
	}
	limit := int64(MaxFile)
	if c.Kind == KindImage {
		limit = MaxManifest
	}
	if c.Size < 1 || c.Size > limit {
		return fmt.Errorf("%w: want 1 to %d bytes", ErrSize, limit)
	}
	switch c.Kind {
	case KindImage:
		if c.Image != "" || c.Path != "" || c.InstallPath != "" {
			return fmt.Errorf("%w: an image has no image and no paths", ErrSurplus)
		}
		return nil
	case KindProgram:
		if _, ok := s.Image(c.Image); !ok {
			return ErrImage
		}
		if !isCleanPath(c.Path) || !isCleanPath(c.InstallPath) {
			return ErrPath
		}
		return nil
	}
	return ErrKind
}

func isCleanPath(p string) bool {
	return len(p) <= MaxText && pathPattern.MatchString(p) && path.Clean(p) == p && !path.IsAbs(p) &&
		p != "." && p != ".." && !strings.HasPrefix(p, "../")
}

// checkInstallPaths refuses programs in each other's place, or one where another needs a folder.
func (s *Set) checkInstallPaths() error {
	taken := map[string]bool{}
	for _, c := range s.Programs() {
		if taken[c.InstallPath] {
			return fmt.Errorf("%s: %w", c.Name, ErrConflict)
		}
		taken[c.InstallPath] = true
	}
	for _, c := range s.Programs() {
		for dir := path.Dir(c.InstallPath); dir != "."; dir = path.Dir(dir) {
			if taken[dir] {
				return fmt.Errorf("%s: %w", c.Name, ErrConflict)
			}
		}
	}
	return nil
}
