// SPDX-License-Identifier: Apache-2.0

// Package licence turns a Debian copyright file into an SPDX licence
// expression, as well as that can be done by a machine.
//
// Only machine-readable files (format 1.0, DEP-5) are interpreted. What they
// name is joined with AND: a package is under all the licences of its files.
// A name that SPDX does not know, and a file in free form, become
// [SeeCopyright], whose meaning is "read the package's copyright file". The
// result is a help for people, not legal advice, and covers the source package
// rather than the one binary.
package licence

import (
	"bytes"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/image/packages/archive"
)

// SeeCopyright stands for terms that have no SPDX identifier.
const SeeCopyright = "LicenseRef-Debian-copyright"

// spdx maps the short names of DEP-5, in lower case, to SPDX identifiers.
var spdx = map[string]string{
	"agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later",
	"apache-2.0": "Apache-2.0", "apache-2": "Apache-2.0",
	"artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
	"bsd-2-clause-patent": "BSD-2-Clause-Patent", "bsd-4-clause-uc": "BSD-4-Clause-UC",
	"0bsd": "0BSD", "bsd-0-clause": "0BSD",
	"bsl-1.0": "BSL-1.0", "bsl-1": "BSL-1.0",
	"cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0",
	"expat": "MIT", "mit": "MIT", "mit-0": "MIT-0", "x11": "X11", "mit/x11": "MIT",
	"fsfap": "FSFAP", "fsful": "FSFUL", "fsfullr": "FSFULLR",
	"gpl-1": "GPL-1.0-only", "gpl-1+": "GPL-1.0-or-later",
	"gpl-2": "GPL-2.0-only", "gpl-2.0": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later", "gpl-2.0+": "GPL-2.0-or-later",
	"gpl-3": "GPL-3.0-only", "gpl-3.0": "GPL-3.0-only", "gpl-3+": "GPL-3.0-or-later", "gpl-3.0+": "GPL-3.0-or-later",
	"gpl-2.0-only": "GPL-2.0-only", "gpl-2.0-or-later": "GPL-2.0-or-later", "gpl-3.0-or-later": "GPL-3.0-or-later",
	"gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later", "gfdl-1.1+": "GFDL-1.1-or-later",
	"isc":    "ISC",
	"lgpl":   "LGPL-2.0-or-later",
	"lgpl-2": "LGPL-2.0-only", "lgpl-2.0": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later", "lgpl-2.0+": "LGPL-2.0-or-later",
	"lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later", "lgpl-2.1-or-later": "LGPL-2.1-or-later",
	"lgpl-3": "LGPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only", "lgpl-3+": "LGPL-3.0-or-later", "lgpl-3.0+": "LGPL-3.0-or-later",
	"mpl-2.0": "MPL-2.0", "openssl": "OpenSSL", "psf-2": "PSF-2.0", "unicode-dfs-2016": "Unicode-DFS-2016",
	"unlicense": "Unlicense", "zlib": "Zlib", "hpnd": "HPND", "hpnd-sell-variant": "HPND-sell-variant",
	"beerware": "Beerware", "sissl": "SISSL", "ntp": "NTP", "curl": "curl",
}

// Expression gives the SPDX expression for the text of a copyright file.
func Expression(text []byte) string {
	var terms []string
	first := true
	for stanza, err := range archive.Stanzas(bytes.NewReader(text)) {
		if err != nil {
			terms = append(terms, SeeCopyright)
			break
		}
		if first && !strings.Contains(stanza["format"], "copyright-format/1") {
			return SeeCopyright
		}
		// Stanzas with neither are the texts of the licences.
		if _, files := stanza["files"]; files || first {
			name, _, _ := strings.Cut(stanza["license"], "\n")
			if name != "" {
				terms = append(terms, clauses(name)...)
			}
		}
		first = false
	}
	if len(terms) == 0 {
		return SeeCopyright
	}
	return conjunction(terms)
}

// clauses translates one License field into expressions that all apply. "and"
// binds more tightly than "or", but less so after a comma (DEP-5, "License
// specification").
func clauses(field string) []string {
	field = strings.ToLower(strings.Join(strings.Fields(field), " "))
	var result []string
	for clause := range strings.SplitSeq(field, ", and ") {
		var alternatives []string
		for alternative := range strings.SplitSeq(strings.ReplaceAll(clause, ",", ""), " or ") {
			var all []string
			for name := range strings.SplitSeq(alternative, " and ") {
				id, known := spdx[strings.TrimSpace(name)]
				if !known {
					return []string{SeeCopyright}
				}
				all = append(all, id)
			}
			alternatives = append(alternatives, conjunction(all))
		}
		if len(alternatives) == 1 {
			result = append(result, strings.Split(alternatives[0], " AND ")...)
			continue
		}
		result = append(result, join(alternatives, " OR "))
	}
	return result
}

func conjunction(terms []string) string { return join(terms, " AND ") }

// join connects distinct expressions in alphabetical order and puts those into
// parentheses that consist of several.
func join(expressions []string, operator string) string {
	expressions = slices.Compact(slices.Sorted(slices.Values(expressions)))
	if len(expressions) == 1 {
		return expressions[0]
	}
	for i, e := range expressions {
		if strings.Contains(e, " ") {
			expressions[i] = "(" + e + ")"
		}
	}
	return strings.Join(expressions, operator)
}
