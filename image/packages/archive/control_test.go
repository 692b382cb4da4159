// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStanzas(t *testing.T) {
	const text = "\nPackage: a\nDescription: short\n long\n\tlonger\nEmpty:\n\n \nPackage: b\nX-Y: z: z\n"
	var got []Stanza
	for s, err := range Stanzas(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	want := []Stanza{
		{"package": "a", "description": "short\nlong\nlonger", "empty": ""},
		{"package": "b", "x-y": "z: z"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStanzasRefuse(t *testing.T) {
	for name, text := range map[string]string{
		"no colon":                     "Package a\n",
		"continuation without a field": " more\n",
		"field twice":                  "A: 1\na: 2\n",
		"empty name":                   ": 1\n",
		"comment":                      "# a: b\n",
		"control character in name":    "A\x00: 1\n",
		"long line":                    "A: " + strings.Repeat("x", maxLine) + "\n",
		"long stanza":                  "A:\n" + strings.Repeat(" "+strings.Repeat("x", 1<<16)+"\n", maxStanza>>16+1),
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range Stanzas(strings.NewReader(text)) {
				if err != nil {
					return
				}
			}
			t.Error("accepted")
		})
	}
}

// FuzzStanzas checks that whatever is accepted can be written and read again.
func FuzzStanzas(f *testing.F) {
	f.Add("Package: a\nDescription: short\n long\n .\n\nPackage: b\n")
	f.Add("A:\n 1\n\n\n\nB: \t2\r\n")
	f.Add(" x\n#\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		var written strings.Builder
		var first []Stanza
		for s, err := range Stanzas(strings.NewReader(text)) {
			if err != nil {
				return
			}
			for name, value := range s {
				written.WriteString(name + ":" + strings.ReplaceAll(value, "\n", "\n ") + "\n")
			}
			written.WriteString("\n")
			first = append(first, s)
		}
		var second []Stanza
		for s, err := range Stanzas(strings.NewReader(written.String())) {
			if err != nil {
				t.Fatalf("%v in %q", err, written.String())
			}
			second = append(second, s)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzParsePackage checks that no index entry leads outside the pool.
func FuzzParsePackage(f *testing.F) {
	f.Add("1:1.0-1", "a (>= 1) | b, c:any", "pool/main/a/a_1.deb", "x (2)", "12")
	f.Add("", "a (", "pool/../../etc/passwd.deb", "", "-1")
	f.Fuzz(func(t *testing.T, version, depends, filename, source, size string) {
		p, err := parsePackage(Stanza{
			"package": "hello", "version": version, "architecture": "amd64", "depends": depends,
			"filename": filename, "source": source, "size": size, "sha256": strings.Repeat("0", 64),
		})
		if err == nil && (!strings.HasPrefix(p.Path, "pool/") || strings.Contains(p.Path, "..") && strings.Contains(p.Path, "/../")) {
			t.Errorf("path %q is outside the pool", p.Path)
		}
	})
}
