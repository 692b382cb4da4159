// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"fmt"
	"slices"
	"strings"
)

// Diff describes, for people, what changes from one lock to another: one line
// per package and a sum. It is empty if the packages are the same.
func Diff(before, after *Lock) string {
	old, new := byName(before), byName(after)
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range new {
		names[name] = true
	}
	var lines []string
	var size int64
	for _, name := range sorted(names) {
		a, b := old[name], new[name]
		switch {
		case a == nil:
			size += b.Size
			lines = append(lines, fmt.Sprintf("  added    %s %s (%s) [%s]", name, b.Version, signed(b.Size), strings.Join(b.Groups, " ")))
		case b == nil:
			size -= a.Size
			lines = append(lines, fmt.Sprintf("  removed  %s %s (%s)", name, a.Version, signed(-a.Size)))
		default:
			size += b.Size - a.Size
			if change := describe(a, b); change != "" {
				lines = append(lines, fmt.Sprintf("  changed  %s %s", name, change))
			}
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + fmt.Sprintf("\n  total    %d packages, %s\n", len(after.Packages), signed(size))
}

func describe(a, b *Package) string {
	var parts []string
	if a.Version != b.Version {
		parts = append(parts, fmt.Sprintf("%s -> %s (%s)", a.Version, b.Version, signed(b.Size-a.Size)))
	} else if a.SHA256 != b.SHA256 {
		parts = append(parts, fmt.Sprintf("%s: same version, other content (%s)", a.Version, signed(b.Size-a.Size)))
	}
	if a.Archive != b.Archive {
		parts = append(parts, fmt.Sprintf("archive %s -> %s", a.Archive, b.Archive))
	}
	if a.Licence != b.Licence {
		parts = append(parts, fmt.Sprintf("licence %s -> %s", a.Licence, b.Licence))
	}
	if !slices.Equal(a.Groups, b.Groups) {
		parts = append(parts, fmt.Sprintf("groups [%s] -> [%s]", strings.Join(a.Groups, " "), strings.Join(b.Groups, " ")))
	}
	return strings.Join(parts, "; ")
}

func byName(l *Lock) map[string]*Package {
	m := map[string]*Package{}
	if l != nil {
		for i := range l.Packages {
			m[l.Packages[i].Name] = &l.Packages[i]
		}
	}
	return m
}

func sorted(set map[string]bool) []string {
	var names []string
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func signed(bytes int64) string {
	return fmt.Sprintf("%+.1f KiB", float64(bytes)/1024)
}
