// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the archives that a lock may refer to.
const (
	Debian   = "debian"
	Security = "debian-security"
)

// Mirrors holds the base addresses of each archive, best first.
type Mirrors map[string][]string

// variables name the environment variables that take the place of the
// machine's own configuration. Several addresses are separated by spaces.
var variables = map[string]string{
	Debian:   "DEBIAN_MIRROR",
	Security: "DEBIAN_SECURITY_MIRROR",
}

// FindMirrors decides where packages come from: the environment if it says so,
// otherwise the apt configuration below aptDir (usually /etc/apt). Mirrors are
// not trusted: everything from them is checked against signed hashes.
func FindMirrors(getenv func(string) string, aptDir string) (Mirrors, error) {
	configured, err := aptURIs(aptDir)
	if err != nil {
		return nil, err
	}
	mirrors := Mirrors{}
	for _, name := range []string{Debian, Security} {
		for _, base := range strings.Fields(getenv(variables[name])) {
			if !isHTTP(base) {
				return nil, fmt.Errorf("%s: %q is not an http or https address", variables[name], base)
			}
			mirrors[name] = append(mirrors[name], strings.TrimRight(base, "/"))
		}
		if len(mirrors[name]) > 0 {
			continue
		}
		for _, base := range configured {
			if serves(base) == name && !slices.Contains(mirrors[name], base) {
				mirrors[name] = append(mirrors[name], base)
			}
		}
	}
	if len(mirrors[Security]) == 0 {
		// Mirrors commonly carry both archives side by side.
		for _, base := range mirrors[Debian] {
			if sibling, ok := strings.CutSuffix(base, "/"+Debian); ok {
				mirrors[Security] = append(mirrors[Security], sibling+"/"+Security)
			}
		}
	}
	for _, name := range []string{Debian, Security} {
		if len(mirrors[name]) == 0 {
			return nil, fmt.Errorf("no mirror of the archive %q is known: %s names none; set %s to the base address of one",
				name, aptDir, variables[name])
		}
	}
	return mirrors, nil
}

// serves tells which archive an address leads to, by its path: mirrors end in
// the archive's name, snapshot services put a time stamp behind it.
func serves(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	segments := strings.Split(path.Clean(u.Path), "/")
	for _, name := range []string{Security, Debian} {
		if slices.Contains(segments, name) {
			return name
		}
	}
	return ""
}

func isHTTP(uri string) bool {
	return strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://")
}

// aptURIs lists the http(s) addresses in apt's sources, in the order in which
// apt reads them: sources.list, then sources.list.d by name.
func aptURIs(aptDir string) ([]string, error) {
	parts, err := filepath.Glob(filepath.Join(aptDir, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(parts)
	var uris []string
	for _, file := range append([]string{filepath.Join(aptDir, "sources.list")}, parts...) {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var found []string
		switch filepath.Ext(file) {
		case ".list":
			found = oneLineURIs(text)
		case ".sources":
			found = deb822URIs(text)
		}
		for _, uri := range found {
			uris = append(uris, expandMirrorList(uri)...)
		}
	}
	return uris, nil
}

// oneLineURIs reads "deb [options] URI suite component..." lines.
func oneLineURIs(text []byte) []string {
	var uris []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		rest, isDeb := strings.CutPrefix(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), "deb ")
		if !isDeb {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if fields := strings.Fields(rest); len(fields) >= 2 {
			uris = append(uris, fields[0])
		}
	}
	return uris
}

// deb822URIs reads the URIs of enabled "Types: deb" stanzas. Comment lines,
// which apt permits anywhere, are removed first.
func deb822URIs(text []byte) []string {
	var plain bytes.Buffer
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("#")) {
			plain.Write(line)
		}
	}
	var uris []string
	for stanza, err := range Stanzas(&plain) {
		if err != nil {
			return uris
		}
		if slices.Contains(strings.Fields(stanza["types"]), "deb") && !strings.EqualFold(stanza["enabled"], "no") {
			uris = append(uris, strings.Fields(stanza["uris"])...)
		}
	}
	return uris
}

// expandMirrorList follows the mirror+file scheme of Debian's cloud images to
// the list of addresses in that file.
func expandMirrorList(uri string) []string {
	if isHTTP(uri) {
		return []string{strings.TrimRight(uri, "/")}
	}
	file, ok := strings.CutPrefix(uri, "mirror+file:")
	if !ok {
		return nil
	}
	text, err := os.ReadFile(path.Clean("/" + strings.TrimLeft(file, "/")))
	if err != nil {
		return nil
	}
	var uris []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && isHTTP(fields[0]) {
			uris = append(uris, strings.TrimRight(fields[0], "/"))
		}
	}
	return uris
}
