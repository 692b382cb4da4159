// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/image/packages/archive"
	"github.com/constellation-os/constellation/image/packages/archivetest"
	"github.com/constellation-os/constellation/image/packages/lock"
)

const list = `
architecture: amd64
suites:
  - {archive: debian, suite: trixie, component: main}
  - {archive: debian-security, suite: trixie-security, component: main}
groups:
  root:
    wanted: [{name: init, why: starts}]
    refused: [{name: shell, why: no shell}]
  tools:
    wanted: [{name: lib, why: used}]
`

const mit = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Expat\n"

// A world is an archive, a source tree and an updater between them.
type world struct {
	*archivetest.Archive
	*updater
	out, log bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Archive: archivetest.New(t)}
	w.Add(t, "trixie",
		archivetest.Package{Name: "init", Version: "1.0", Copyright: mit, Fields: map[string]string{"Depends": "lib (>= 2), shell | other"}},
		archivetest.Package{Name: "lib", Version: "2.0", SharesDoc: "init", Fields: map[string]string{"Source": "libs (1:2.0)"}},
		archivetest.Package{Name: "shell", Version: "1.0"},
	)
	w.Add(t, "trixie-security", archivetest.Package{Name: "lib", Version: "2.0+deb13u1", SharesDoc: "init"})
	w.Release(t, "trixie")
	w.Release(t, "trixie-security")
	base := w.Serve(t)
	w.updater = &updater{
		client: archive.Client{
			Mirrors: archive.Mirrors{archive.Debian: {base}, archive.Security: {base}},
			Keyring: openpgp.EntityList{w.Key},
			Now:     func() time.Time { return archivetest.Date.Add(time.Hour) },
		},
		dir: t.TempDir(), cache: t.TempDir(), out: &w.out, progress: &w.log,
	}
	w.list(t, list)
	return w
}

func (w *world) list(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "packages.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) lock(t *testing.T) *lock.Lock {
	t.Helper()
	l, err := lock.ReadFile(filepath.Join(w.dir, "lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := w.lock(t)
	var brief []string
	for _, p := range got.Packages {
		brief = append(brief, strings.Join([]string{p.Name, p.Version, p.Archive, p.Source, p.SourceVersion, p.Licence, strings.Join(p.Groups, "+")}, " "))
	}
	want := []string{
		"init 1.0 debian init 1.0 MIT root",
		"lib 2.0+deb13u1 debian-security lib 2.0+deb13u1 MIT root+tools",
	}
	if diff := cmp.Diff(want, brief); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"dropped: init wants shell | other (refused: shell)", "[2/2]"} {
		if !strings.Contains(w.log.String(), line) {
			t.Errorf("progress does not say %q:\n%s", line, w.log.String())
		}
	}
	if !strings.Contains(w.out.String(), "added    init 1.0") {
		t.Errorf("no diff: %s", w.out.String())
	}
}

func TestSecondUpdateChangesAndFetchesNothing(t *testing.T) {
	w := newWorld(t)
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.out.Reset()
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.out.String(); got != "The lock is up to date.\n" {
		t.Errorf("got %q", got)
	}
	if n := w.Requests("pool/main/init/init_1.0_amd64.deb"); n != 1 {
		t.Errorf("a package was fetched %d times", n)
	}
}

func TestUpgradeIsShown(t *testing.T) {
	w := newWorld(t)
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.out.Reset()
	w.Add(t, "trixie-security", archivetest.Package{Name: "lib", Version: "2.0+deb13u2", SharesDoc: "init"})
	w.Date = archivetest.Date.Add(time.Minute)
	w.Release(t, "trixie-security")
	w.check = true
	if err := w.update(context.Background()); err == nil || !strings.Contains(err.Error(), "not up to date") {
		t.Errorf("a check passed that should not: %v", err)
	}
	if !strings.Contains(w.out.String(), "changed  lib 2.0+deb13u1 -> 2.0+deb13u2 (+0.0 KiB)") {
		t.Errorf("got %q", w.out.String())
	}
	if w.lock(t).Packages[1].Version != "2.0+deb13u1" {
		t.Error("a check wrote the lock")
	}
}

// TestFailureKeepsTheLock breaks the archive or the list in every way that an
// update can fail of, and expects the old lock, the reason, and no other file.
func TestFailureKeepsTheLock(t *testing.T) {
	const deb = "pool/main/lib/lib_2.0+deb13u1_amd64.deb"
	for name, test := range map[string]struct {
		spoil func(t *testing.T, w *world)
		is    error
		says  string
	}{
		"wrong signature": {
			spoil: func(t *testing.T, w *world) { w.client.Keyring = openpgp.EntityList{archivetest.NewKey(t)} },
			is:    archive.ErrUnsigned,
		},
		"tampered package": {
			spoil: func(t *testing.T, w *world) {
				spoiled := bytes.Clone(w.File(t, deb))
				spoiled[len(spoiled)-1] ^= 1
				w.Replace(t, deb, spoiled)
			},
			says: "lib 2.0+deb13u1",
		},
		"package missing on the mirror": {
			spoil: func(t *testing.T, w *world) { w.Replace(t, deb, nil) },
			is:    archive.ErrMissing,
			says:  deb,
		},
		"past its end": {
			spoil: func(t *testing.T, w *world) {
				w.ValidUntil = archivetest.Date.Add(time.Minute)
				w.Release(t, "trixie-security")
			},
			is:   archive.ErrExpired,
			says: "-allow-old",
		},
		"older than the lock": {
			spoil: func(t *testing.T, w *world) {
				w.Date = archivetest.Date.Add(-time.Hour)
				w.Release(t, "trixie")
			},
			says: "is older than the lock's",
		},
		"unknown field in the list": {
			spoil: func(t *testing.T, w *world) { w.list(t, list+"extra: 1\n") },
			says:  "field extra not found",
		},
		"wanted package missing": {
			spoil: func(t *testing.T, w *world) { w.list(t, strings.ReplaceAll(list, "name: init", "name: intit")) },
			says:  "wanted package intit",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.update(context.Background()); err != nil {
				t.Fatal(err)
			}
			before := w.lock(t)
			w.cache = t.TempDir()
			test.spoil(t, w)
			err := w.update(context.Background())
			if err == nil {
				t.Fatal("no error")
			}
			if test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q is not %v or does not say %q", err, test.is, test.says)
			}
			if diff := cmp.Diff(before, w.lock(t)); diff != "" {
				t.Error(diff)
			}
			if left, err := os.ReadDir(w.dir); err != nil || len(left) != 2 {
				t.Errorf("files left: %v, %v", left, err)
			}
		})
	}
}

func TestOldReleaseCanBeAllowed(t *testing.T) {
	w := newWorld(t)
	w.ValidUntil = archivetest.Date.Add(time.Minute)
	w.Release(t, "trixie")
	w.allowOld = true
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.log.String(), "(accepted)") {
		t.Error("acceptance is not reported")
	}
}

func TestInterruptKeepsTheLock(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.progress = writerFunc(func(b []byte) (int, error) {
		if bytes.HasPrefix(b, []byte("group tools")) {
			cancel()
		}
		return len(b), nil
	})
	if err := w.update(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(w.dir); err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestDamagedCacheIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	cached, err := filepath.Glob(filepath.Join(w.cache, "*.deb"))
	if err != nil || len(cached) != 2 {
		t.Fatal(cached, err)
	}
	for _, name := range cached {
		if err := os.WriteFile(name, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.export = t.TempDir()
	if err := w.update(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(w.export, "init.deb"))
	if err != nil || !bytes.Equal(got, w.File(t, "pool/main/init/init_1.0_amd64.deb")) {
		t.Errorf("the exported package differs: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
