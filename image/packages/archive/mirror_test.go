// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindMirrors(t *testing.T) {
	list := filepath.Join(t.TempDir(), "mirrors.list")
	if err := os.WriteFile(list, []byte("https://l.example/debian\tpriority:1\nftp://no.example/debian\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		env   map[string]string
		files map[string]string
		want  Mirrors // nil: an error
	}{
		"one-line sources": {
			files: map[string]string{"sources.list": "# deb http://no.example/debian x main\n" +
				"deb-src http://no.example/debian trixie main\n" +
				"deb [arch=amd64 signed-by=/x] http://a.example/debian/ trixie main # comment\n" +
				"deb\thttp://s.example/debian-security trixie-security main\n"},
			want: Mirrors{Debian: {"http://a.example/debian"}, Security: {"http://s.example/debian-security"}},
		},
		"deb822 sources": {
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb deb-src\n# comment\nURIs: http://a.example/debian\n  http://b.example/debian\nSuites: trixie\n\n" +
				"Enabled: no\nTypes: deb\nURIs: http://no.example/debian\n\nTypes: deb-src\nURIs: http://no.example/debian\n\n" +
				"Types: deb\nURIs: http://s.example/debian-security\n"},
			want: Mirrors{Debian: {"http://a.example/debian", "http://b.example/debian"}, Security: {"http://s.example/debian-security"}},
		},
		"mirror list of a cloud image": {
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb\nURIs: mirror+file://" + list + "\nSuites: trixie\n"},
			want:  Mirrors{Debian: {"https://l.example/debian"}, Security: {"https://l.example/debian-security"}},
		},
		"environment before configuration": {
			env:   map[string]string{"DEBIAN_MIRROR": "http://x.example/archive/debian/20260101T000000Z/ http://y.example/debian"},
			files: map[string]string{"sources.list": "deb http://a.example/debian t main\ndeb http://a.example/debian-security t main\n"},
			want: Mirrors{
				Debian:   {"http://x.example/archive/debian/20260101T000000Z", "http://y.example/debian"},
				Security: {"http://a.example/debian-security"},
			},
		},
		"snapshot addresses in the configuration": {
			files: map[string]string{"sources.list": "deb http://x.example/archive/debian/2026/ t main\ndeb http://x.example/archive/debian-security/2026/ t main\n"},
			want:  Mirrors{Debian: {"http://x.example/archive/debian/2026"}, Security: {"http://x.example/archive/debian-security/2026"}},
		},
		"another distribution": {
			files: map[string]string{"sources.list": "deb http://a.example/ubuntu noble main\n"},
		},
		"nothing": {},
		"not an address": {
			env: map[string]string{"DEBIAN_MIRROR": "/mnt/debian"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			apt := t.TempDir()
			if err := os.Mkdir(filepath.Join(apt, "sources.list.d"), 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range test.files {
				if err := os.WriteFile(filepath.Join(apt, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := FindMirrors(func(name string) string { return test.env[name] }, apt)
			if (err != nil) != (test.want == nil) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
