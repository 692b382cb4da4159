// SPDX-License-Identifier: Apache-2.0

package archive_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/constellation-os/constellation/image/packages/archive"
	"github.com/constellation-os/constellation/image/packages/archivetest"
)

const (
	release = "dists/trixie/InRelease"
	index   = "dists/trixie/main/binary-amd64/Packages.xz"
	hello   = "pool/main/hello/hello_1.0_amd64.deb"
)

// fetchHello goes the whole way from the release file to the package.
func fetchHello(a *archivetest.Archive, mirrors ...string) ([]byte, error) {
	ctx := context.Background()
	client := archive.Client{
		Mirrors: archive.Mirrors{archive.Debian: mirrors},
		Keyring: openpgp.EntityList{a.Key},
		Now:     func() time.Time { return archivetest.Date.Add(time.Hour) },
	}
	r, err := client.Release(ctx, archive.Debian, "trixie")
	if err != nil {
		return nil, err
	}
	packages, err := client.Index(ctx, archive.Debian, "trixie", r, "main", "amd64")
	if err != nil {
		return nil, err
	}
	return client.Package(ctx, packages[0])
}

func newArchive(t *testing.T) *archivetest.Archive {
	t.Helper()
	a := archivetest.New(t)
	a.Add(t, "trixie", archivetest.Package{Name: "hello", Version: "1.0"})
	return a
}

func TestFetch(t *testing.T) {
	a := newArchive(t)
	a.Release(t, "trixie")
	got, err := fetchHello(a, a.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, a.File(t, hello)) {
		t.Error("the package differs from the archive's")
	}
}

func flip(data []byte) []byte {
	spoiled := bytes.Clone(data)
	spoiled[len(spoiled)/2] ^= 1
	return spoiled
}

func TestFetchRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, a *archivetest.Archive)
		is    error
		says  string
	}{
		"signature by another key": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				other := archivetest.New(t)
				other.Add(t, "trixie", archivetest.Package{Name: "hello", Version: "1.0"})
				other.Release(t, "trixie")
				a.Replace(t, release, other.File(t, release))
			},
			is: archive.ErrUnsigned,
		},
		"signed text changed": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.Replace(t, release, bytes.Replace(a.File(t, release), []byte("Label: Test"), []byte("Label: Best"), 1))
			},
			is: archive.ErrUnsigned,
		},
		"text before the signed message": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.Replace(t, release, append([]byte("Codename: trixie\n"), a.File(t, release)...))
			},
			is: archive.ErrUnsigned,
		},
		"text after the signature": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.Replace(t, release, append(bytes.Clone(a.File(t, release)), "Codename: trixie\n"...))
			},
			is: archive.ErrUnsigned,
		},
		"release without a signature": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, release, []byte("Codename: trixie\n")) },
			is:    archive.ErrUnsigned,
		},
		"truncated release": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, release, a.File(t, release)[:200]) },
			is:    archive.ErrUnsigned,
		},
		"signed release of another suite": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.Codename = "bookworm"
				a.Release(t, "trixie")
			},
			is: archive.ErrWrongSuite,
		},
		"release past its end": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.ValidUntil = archivetest.Date.Add(time.Minute)
				a.Release(t, "trixie")
			},
			is: archive.ErrExpired,
		},
		"tampered index": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, index, flip(a.File(t, index))) },
			says:  "SHA-256 differs",
		},
		"truncated index": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, index, a.File(t, index)[:50]) },
			says:  "size differs",
		},
		"longer index": {
			spoil: func(t *testing.T, a *archivetest.Archive) {
				a.Replace(t, index, append(bytes.Clone(a.File(t, index)), 0))
			},
			says: "longer than",
		},
		"index missing": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, index, nil) },
			is:    archive.ErrMissing,
		},
		"tampered package": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, hello, flip(a.File(t, hello))) },
			says:  "SHA-256 differs",
		},
		"package missing": {
			spoil: func(t *testing.T, a *archivetest.Archive) { a.Replace(t, hello, nil) },
			is:    archive.ErrMissing,
			says:  hello,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArchive(t)
			a.Release(t, "trixie")
			test.spoil(t, a)
			_, err := fetchHello(a, a.Serve(t))
			if err == nil {
				t.Fatal("accepted")
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q is not %q", err, test.is)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
		})
	}
}

func TestSecondMirrorServesWhatTheFirstLacks(t *testing.T) {
	a := newArchive(t)
	a.Release(t, "trixie")
	lacking := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(lacking.Close)
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".deb") {
			_, _ = w.Write(flip(a.File(t, hello)))
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(lying.Close)
	got, err := fetchHello(a, lacking.URL, lying.URL, a.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, a.File(t, hello)) {
		t.Error("the package differs from the archive's")
	}
}

func TestMirrorThatBreaksOffIsAskedAgain(t *testing.T) {
	a := newArchive(t)
	a.Release(t, "trixie")
	broken := false
	honest := a.Serve(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".deb") && !broken {
			broken = true
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte("!<arch>"))
			panic(http.ErrAbortHandler)
		}
		http.Redirect(w, r, honest+strings.TrimPrefix(r.URL.Path, "/debian"), http.StatusFound)
	}))
	t.Cleanup(server.Close)
	if _, err := fetchHello(a, server.URL+"/debian"); err != nil {
		t.Error(err)
	}
	if !broken {
		t.Error("the mirror was not asked for the package")
	}
}

func TestReadKeyringNamesThePackage(t *testing.T) {
	_, err := archive.ReadKeyring(filepath.Join(t.TempDir(), "none.gpg"))
	if err == nil || !strings.Contains(err.Error(), "debian-archive-keyring") {
		t.Errorf("error %v does not name the package to install", err)
	}
	broken := filepath.Join(t.TempDir(), "broken.gpg")
	if err := os.WriteFile(broken, []byte("no keyring"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.ReadKeyring(broken); err == nil {
		t.Error("a broken keyring was accepted")
	}
}
