// SPDX-License-Identifier: Apache-2.0

package licence

import (
	"strings"
	"testing"
)

func TestExpression(t *testing.T) {
	const header = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: x\n"
	for name, test := range map[string]struct{ text, want string }{
		"one":                  {header + "\nFiles: *\nLicense: Expat\n text\n", "MIT"},
		"licence in header":    {header + "License: GPL-2+\n", "GPL-2.0-or-later"},
		"several, sorted once": {header + "\nFiles: *\nLicense: LGPL-2.1+\n\nFiles: a\nLicense: Expat\n\nFiles: b\nLicense: Expat\n", "LGPL-2.1-or-later AND MIT"},
		"texts do not count":   {header + "\nFiles: *\nLicense: Expat\n\nLicense: GPL-3\n text\n", "MIT"},
		"choice":               {header + "\nFiles: *\nLicense: GPL-2+ or Expat\n", "GPL-2.0-or-later OR MIT"},
		"choice and more":      {header + "\nFiles: *\nLicense: GPL-2+ or Expat\n\nFiles: a\nLicense: ISC\n", "(GPL-2.0-or-later OR MIT) AND ISC"},
		"two choices":          {header + "\nFiles: *\nLicense: GPL-2+ or Expat\n\nFiles: a\nLicense: ISC or Zlib\n", "(GPL-2.0-or-later OR MIT) AND (ISC OR Zlib)"},
		"both":                 {header + "\nFiles: *\nLicense: BSD-3-clause and ISC\n", "BSD-3-Clause AND ISC"},
		"comma before or":      {header + "\nFiles: *\nLicense: GPL-2+, or BSD-3-clause and ISC\n", "(BSD-3-Clause AND ISC) OR GPL-2.0-or-later"},
		"comma before and":     {header + "\nFiles: *\nLicense: GPL-2+ or Expat, and ISC\n", "(GPL-2.0-or-later OR MIT) AND ISC"},
		"unknown name":         {header + "\nFiles: *\nLicense: Expat\n\nFiles: a\nLicense: weird\n", SeeCopyright + " AND MIT"},
		"exception":            {header + "\nFiles: *\nLicense: GPL-2+ with OpenSSL exception\n", SeeCopyright},
		"free form":            {"This package is under the GPL.\n", SeeCopyright},
		"other stanza first":   {"Package: x\nLicense: Expat\n", SeeCopyright},
		"empty":                {"", SeeCopyright},
		"no licence field":     {header, SeeCopyright},
		"breaks off":           {header + "\nFiles: *\nLicense: Expat\nno field\n", SeeCopyright},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Expression([]byte(test.text)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzExpression checks that only known words ever come out.
func FuzzExpression(f *testing.F) {
	f.Add("Format: x/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+ or Expat, and ISC\n")
	f.Add("free form")
	known := map[string]bool{"AND": true, "OR": true, SeeCopyright: true}
	for _, id := range spdx {
		known[id] = true
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Expression([]byte(text))
		if strings.Count(got, "(") != strings.Count(got, ")") || got == "" {
			t.Errorf("unbalanced or empty: %q", got)
		}
		for _, word := range strings.Fields(strings.NewReplacer("(", " ", ")", " ").Replace(got)) {
			if !known[word] {
				t.Errorf("unknown word %q in %q", word, got)
			}
		}
	})
}
