// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
)

// cutting serves a bundle, and cuts each connection after so many bytes of a body.
type cutting struct {
	http.ResponseWriter
	left int
	sent *atomic.Int64
}

func (c *cutting) Write(p []byte) (int, error) {
	cut := len(p) > c.left
	if cut {
		p = p[:c.left]
	}
	n, err := c.ResponseWriter.Write(p)
	c.left -= n
	c.sent.Add(int64(n))
	if cut {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestResumeConnection: a connection that is cut in the middle is continued there, at the same source.
func TestResumeConnection(t *testing.T) {
	b := bundletest.Small(t)
	var sent, ranges atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=") {
			ranges.Add(1)
		}
		b.Handler().ServeHTTP(&cutting{w, MinProgress + 1000, &sent}, r)
	}))
	defer server.Close()
	root := t.TempDir()
	if _, err := Install(t.Context(), b.Set(), Options{Root: root, Sources: []string{server.URL}}); err != nil {
		t.Fatal(err)
	}
	checkPrograms(t, root)
	if ranges.Load() != 2 || sent.Load() != b.Size() {
		t.Errorf("%d bytes sent in %d ranges; the bundle has %d", sent.Load(), ranges.Load(), b.Size())
	}
}

// TestResumeInstall: an installation that was interrupted goes on where it was.
func TestResumeInstall(t *testing.T) {
	b := bundletest.Small(t)
	root := t.TempDir()
	big := largest(t, b)
	const half = 300_000
	ctx, interrupt := context.WithCancel(t.Context())
	hanging := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isBlob(r, big) {
			b.Handler().ServeHTTP(w, r)
			return
		}
		_, body := answer(b, r)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer hanging.Close()
	o := Options{Root: root, Sources: []string{hanging.URL}, Parallel: 1}
	partial := &store{partial: filepath.Join(root, partialDir)}
	o.disk = func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			n, err := w.Write(p)
			if partial.partialSize(big) == half {
				interrupt()
			}
			return n, err
		})
	}
	if _, err := Install(ctx, b.Set(), o); !errors.Is(err, context.Canceled) {
		t.Fatalf("not interrupted: %v", err)
	}
	if kept := partial.partialSize(big); kept != half {
		t.Fatalf("%d bytes were kept", kept)
	}
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.Handler().ServeHTTP(&cutting{w, 1 << 30, &sent}, r)
	}))
	defer server.Close()
	if _, err := Install(t.Context(), b.Set(), Options{Root: root, Sources: []string{server.URL}}); err != nil {
		t.Fatal(err)
	}
	checkPrograms(t, root)
	if sent.Load() > b.Size()-half {
		t.Errorf("%d bytes were sent: %d of %d were there", sent.Load(), half, b.Size())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestPoisonedPartial: what a lying source began is not held against an honest one.
func TestPoisonedPartial(t *testing.T) {
	b := bundletest.Small(t)
	big := largest(t, b)
	for name, content := range map[string][]byte{"wrong": make([]byte, 1000), "too long": make([]byte, 2_000_000)} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(b.Handler())
			defer server.Close()
			root := t.TempDir()
			blobs, err := openStore(root)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(blobs.partialPath(big), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Install(t.Context(), b.Set(), Options{Root: root, Sources: []string{server.URL}}); err != nil {
				t.Fatal(err)
			}
			checkPrograms(t, root)
		})
	}
}

// TestDamage: content and programs that changed on the node are found and replaced.
func TestDamage(t *testing.T) {
	b := bundletest.Small(t)
	big := largest(t, b)
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	o := Options{Root: t.TempDir(), Sources: []string{server.URL}}
	in, err := Install(t.Context(), b.Set(), o)
	if err != nil {
		t.Fatal(err)
	}
	program, _ := in.Program("kubelet")
	for name, damage := range map[string]func() error{
		"a flipped byte in a layer":     func() error { return flip(in.blobs.path(big)) },
		"a flipped byte in a program":   func() error { return flip(program) },
		"a program is missing":          func() error { return os.Remove(program) },
		"a program is not executable":   func() error { return os.Chmod(program, 0o600) },
		"the set's own file is damaged": func() error { return flip(filepath.Join(in.Dir, setFile)) },
		"current leads nowhere": func() error {
			return errors.Join(os.Remove(filepath.Join(o.Root, currentLink)), os.Symlink("nowhere", filepath.Join(o.Root, currentLink)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if _, err := Install(t.Context(), b.Set(), o); err != nil {
				t.Fatal(err)
			}
			checkPrograms(t, o.Root)
			if info, err := os.Stat(program); err != nil || info.Mode().Perm() != programMode {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if ok, err := in.blobs.has(big, mustSize(t, in, big)); !ok || err != nil {
				t.Errorf("the layer is still damaged: %v", err)
			}
		})
	}
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o755)
}

func mustSize(t *testing.T, in *Installed, digest string) int64 {
	t.Helper()
	c, _ := in.Set.Image("kubernetes")
	m, err := readManifest(in.blobs, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Blobs() {
		if string(d.Digest) == digest {
			return d.Size
		}
	}
	t.Fatal("no such blob")
	return 0
}

// TestDiskFull: a full disk is no source's fault, and the error says what to do.
func TestDiskFull(t *testing.T) {
	b := bundletest.Small(t)
	var asked atomic.Int64
	second := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer second.Close()
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for name, from := range map[string]int64{"at once": 0, "while blobs are written": 100_000, "while programs are written": b.Size() + 100_000} {
		t.Run(name, func(t *testing.T) {
			o := Options{Root: t.TempDir(), Sources: []string{server.URL, second.URL}, Parallel: 1}
			var written int64
			o.disk = func(w io.Writer) io.Writer {
				return writerFunc(func(p []byte) (int, error) {
					if written += int64(len(p)); written > from {
						return full.Write(p)
					}
					return w.Write(p)
				})
			}
			_, err := Install(t.Context(), b.Set(), o)
			var space *SpaceError
			if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left in "+o.Root) {
				t.Fatalf("got %v", err)
			}
			if asked.Load() != 0 {
				t.Error("another source was asked")
			}
			if _, err := os.Lstat(filepath.Join(o.Root, currentLink)); err == nil {
				t.Error("something is in place")
			}
			o.disk = nil
			if _, err := Install(t.Context(), b.Set(), o); err != nil {
				t.Errorf("with space again: %v", err)
			}
			checkPrograms(t, o.Root)
		})
	}
}

// TestDiskTooSmall: what will not fit is refused before it is fetched.
func TestDiskTooSmall(t *testing.T) {
	b := bundletest.Small(t)
	var layers atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			layers.Add(1)
		}
		b.Handler().ServeHTTP(w, r)
	}))
	defer server.Close()
	o := Options{Root: t.TempDir(), Sources: []string{server.URL}, free: func(string) (int64, error) { return 64 << 20, nil }}
	_, err := Install(t.Context(), b.Set(), o)
	var space *SpaceError
	if !errors.As(err, &space) || space.Free != 64<<20 || space.Need <= space.Free || !strings.Contains(err.Error(), "the components need 65 MiB more, 64 MiB are free: use a larger state disk") {
		t.Fatalf("got %v", err)
	}
	if layers.Load() != 0 {
		t.Errorf("%d layers were fetched", layers.Load())
	}
}

// TestBusy: two installations do not mix.
func TestBusy(t *testing.T) {
	b := bundletest.Small(t)
	root := t.TempDir()
	unlock, err := lock(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), b.Set(), Options{Root: root}); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	unlock()
	if _, err := Install(t.Context(), b.Set(), Options{Root: root}); !errors.Is(err, ErrNoSources) {
		t.Errorf("after the other one has ended: %v", err)
	}
}

// other is a bundle of another version.
func other(t *testing.T, version string) *bundle.Bundle {
	t.Helper()
	c := bundletest.Contents(t)
	c.Kubernetes = version
	c.Images[0].Layers = append(c.Images[0].Layers, bundletest.Layer(t, bundletest.File("usr/share/version", []byte(version))))
	b, err := bundle.Create(filepath.Join(t.TempDir(), "bundle"), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestUpgrade: the set before stays until the next switch; what nobody needs goes.
func TestUpgrade(t *testing.T) {
	root := t.TempDir()
	install := func(b *bundle.Bundle) *Installed {
		server := httptest.NewServer(b.Handler())
		defer server.Close()
		in, err := Install(t.Context(), b.Set(), Options{Root: root, Sources: []string{server.URL}})
		if err != nil {
			t.Fatal(err)
		}
		if current, err := Current(root); err != nil || current.Set.Digest() != b.Set().Digest() {
			t.Errorf("current: %v", err)
		}
		return in
	}
	first, second, third := other(t, "v1.36.0"), other(t, "v1.37.0"), other(t, "v1.38.0")
	one := install(first)
	if err := os.WriteFile(filepath.Join(root, partialDir, "junk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	two := install(second)
	if _, err := os.Stat(one.Dir); err != nil {
		t.Errorf("the set before is gone: %v", err)
	}
	install(second) // once more: nothing is switched, nothing goes
	if _, err := os.Stat(one.Dir); err != nil {
		t.Errorf("the set before is gone: %v", err)
	}
	install(third)
	if _, err := os.Stat(one.Dir); err == nil {
		t.Error("a set that nobody needs is still there")
	}
	if _, err := os.Stat(two.Dir); err != nil {
		t.Errorf("the set before is gone: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(root, blobsDir))
	if err != nil {
		t.Fatal(err)
	}
	// Of each of the two sets kubernetes' manifest, configuration and version; what they share; pause's.
	if want := 2*3 + 2 + 3; len(entries) != want {
		t.Errorf("%d blobs, want %d", len(entries), want)
	}
	if entries, err := os.ReadDir(filepath.Join(root, partialDir)); err != nil || len(entries) != 0 {
		t.Errorf("unfinished: %v, %v", entries, err)
	}
	// A failed upgrade changes nothing.
	if _, err := Install(t.Context(), first.Set(), Options{Root: root}); !errors.Is(err, ErrNoSources) {
		t.Errorf("got %v", err)
	}
	if current, err := Current(root); err != nil || current.Set.Digest() != third.Set().Digest() {
		t.Errorf("current after a failed upgrade: %v", err)
	}
}
