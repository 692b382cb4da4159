// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/kubernetes/componentset"
)

// stall is short for tests: a source has this long to send something.
const stall = time.Second

// answer is what an honest source would send.
func answer(b *bundle.Bundle, r *http.Request) (status int, body []byte) {
	recorder := httptest.NewRecorder()
	b.Handler().ServeHTTP(recorder, r)
	return recorder.Code, recorder.Body.Bytes()
}

// largest is the digest of the largest blob, which the program is in.
func largest(t *testing.T, b *bundle.Bundle) string {
	t.Helper()
	blobs, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	list, err := newSources(Options{Sources: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fetcher{blobs: blobs, sources: list, parallel: 1}
	c, _ := b.Set().Image("kubernetes")
	if err := f.all(t.Context(), []blob{{image: c.Name, digest: c.Digest, size: c.Size, manifest: true}}); err != nil {
		t.Fatal(err)
	}
	m, err := readManifest(blobs, c)
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Layers[len(m.Layers)-1].Digest)
}

func isBlob(r *http.Request, digest string) bool {
	return strings.HasSuffix(r.URL.Path, "/blobs/"+digest)
}

// sourceFault is what a source can do wrong, and what is said of it.
type sourceFault struct {
	name string
	// wrong answers a request, or leaves it to an honest source.
	wrong func(t *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool
	want  error
	says  string
}

var sourceFaults = []sourceFault{
	{"one flipped byte", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		body[len(body)/2] ^= 1
		_, _ = w.Write(body)
		return true
	}, ErrContent, "it sent other content than the digest's"},
	{"another image's manifest", func(t *testing.T, b *bundle.Bundle, _ string, w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/kubernetes/manifests/") {
			return false
		}
		other, _ := b.Set().Image("pause")
		mine, _ := b.Set().Image("kubernetes")
		status, body := answer(b, httptest.NewRequest(http.MethodGet, "/v2/pause/manifests/"+other.Digest, nil))
		if status != http.StatusOK || int64(len(body)) > mine.Size {
			t.Errorf("status %d, %d bytes: the size alone gives it away", status, len(body))
		}
		_, _ = fmt.Fprintf(w, "%-*s", mine.Size, body)
		return true
	}, ErrContent, "it sent other content than the digest's"},
	{"missing", func(_ *testing.T, _ *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, big) {
			http.NotFound(w, r)
		}
		return isBlob(r, big)
	}, ErrMissing, "it has no such content"},
	{"failing", func(_ *testing.T, _ *bundle.Bundle, _ string, w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "\x1b[31mhello", http.StatusServiceUnavailable)
		return true
	}, ErrStatus, "it answered with an error: HTTP status 503"},
	{"truncated", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:1000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, ErrTruncated, "it ended early: unexpected EOF"},
	{"truncated without a length", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		_, _ = w.Write(body[:1000])
		w.(http.Flusher).Flush()
		return true
	}, ErrTruncated, "it ended early: after 1000 of"},
	{"shorter", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		_, _ = w.Write(body[:len(body)-1])
		return true
	}, ErrSize, "it has content of another size"},
	{"without an end", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		_, _ = w.Write(body)
		for r.Context().Err() == nil {
			if _, err := w.Write(body); err != nil {
				break
			}
		}
		return true
	}, ErrSize, "it has content of another size: more than"},
	{"stalling", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}, ErrStalled, "it stalled"},
	{"trickling", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		tick := time.NewTicker(stall / 20)
		defer tick.Stop()
		for _, c := range body {
			if _, err := w.Write([]byte{c}); err != nil || r.Context().Err() != nil {
				break
			}
			w.(http.Flusher).Flush()
			<-tick.C
		}
		return true
	}, ErrStalled, "it stalled"},
	{"silent", func(_ *testing.T, _ *bundle.Bundle, _ string, _ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}, ErrStalled, "it stalled"},
	{"redirecting in circles", func(_ *testing.T, _ *bundle.Bundle, _ string, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}, ErrRedirect, "it redirects too far"},
	{"wanting credentials", func(_ *testing.T, _ *bundle.Bundle, _ string, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}, ErrStatus, "it answered with an error"},
	{"continuing elsewhere", func(_ *testing.T, b *bundle.Bundle, big string, w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, big) {
			return false
		}
		_, body := answer(b, r)
		w.Header().Set("Content-Range", "bytes 5-"+strconv.Itoa(len(body)-1)+"/"+strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body[5:])
		return true
	}, errRange, "it does not continue what is there"},
}

// TestSourceFaults: a source that fails leads to the next one, and without a next one
// to an error that names it and says why. Nothing is in place before all is right.
func TestSourceFaults(t *testing.T) {
	b := bundletest.Small(t)
	big := largest(t, b)
	for i := range sourceFaults {
		tc := &sourceFaults[i]
		t.Run(tc.name, func(t *testing.T) { tc.test(t, b, big) })
	}
}

func (tc *sourceFault) test(t *testing.T, b *bundle.Bundle, big string) {
	t.Parallel() // they wait, most of the time
	var asked atomic.Int64
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tc.wrong(t, b, big, w, r) {
			asked.Add(1)
			return
		}
		b.Handler().ServeHTTP(w, r)
	}))
	defer bad.Close()
	good := httptest.NewServer(b.Handler())
	defer good.Close()
	o := Options{Root: t.TempDir(), Sources: []string{bad.URL}, Stall: stall}
	_, err := Install(t.Context(), b.Set(), o)
	checkFetchError(t, err, bad.URL, tc.want, tc.says)
	if _, err := os.Lstat(filepath.Join(o.Root, currentLink)); err == nil {
		t.Error("something is in place")
	}
	for _, root := range []string{o.Root, t.TempDir()} { // with what the first call left, and without
		asked.Store(0)
		o.Root, o.Sources = root, []string{bad.URL, good.URL}
		if _, err := Install(t.Context(), b.Set(), o); err != nil {
			t.Errorf("with a second source: %v", err)
		}
		checkPrograms(t, root)
	}
	if asked.Load() == 0 && !strings.HasPrefix(tc.name, "truncated") {
		t.Error("the first source was not asked")
	}
}

func checkFetchError(t *testing.T, err error, source string, want error, says string) {
	t.Helper()
	var failure *FetchError
	if !errors.As(err, &failure) || len(failure.Sources) != 1 || failure.Sources[0].Source != source {
		t.Fatalf("not an error of %s: %v", source, err)
	}
	if !errors.Is(err, want) || !strings.Contains(err.Error(), source+": "+says) {
		t.Errorf("got %v; want %v, said as %q", err, want, says)
	}
	if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 && r != '\n' }) {
		t.Errorf("the error has control characters: %q", err)
	}
}

func checkPrograms(t *testing.T, root string) {
	t.Helper()
	for _, name := range []string{"kubelet", "kubeadm"} {
		data, err := os.ReadFile(filepath.Join(root, currentLink, "bin", name))
		if err != nil || !bytes.Equal(data, bundletest.Kubernetes) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
}

// TestAllSourcesFail: the error names each of them, in their order, and their reasons.
func TestAllSourcesFail(t *testing.T) {
	b := bundletest.Small(t)
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + listener.Addr().String()
	listener.Close()
	_, err = Install(t.Context(), b.Set(), Options{Root: t.TempDir(), Sources: []string{empty.URL, closed}, Parallel: 1})
	var failure *FetchError
	if !errors.As(err, &failure) || len(failure.Sources) != 2 {
		t.Fatalf("got %v", err)
	}
	if s := failure.Sources[0]; s.Source != empty.URL || !errors.Is(s, ErrMissing) {
		t.Errorf("first: %v", s)
	}
	if s := failure.Sources[1]; s.Source != closed || !errors.Is(s, ErrUnreachable) {
		t.Errorf("second: %v", s)
	}
	for _, want := range []string{"no source has sha256:", "\n  " + empty.URL + ": it has no such content", "\n  " + closed + ": it cannot be reached: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
}

// TestFailedSourceIsLast: a source that has failed is not waited for again and again.
func TestFailedSourceIsLast(t *testing.T) {
	b := bundletest.Small(t)
	var asked atomic.Int64
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	defer silent.Close()
	good := httptest.NewServer(b.Handler())
	defer good.Close()
	o := Options{Root: t.TempDir(), Sources: []string{silent.URL, good.URL}, Parallel: 1, Stall: stall}
	if _, err := Install(t.Context(), b.Set(), o); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 1 {
		t.Errorf("the silent source was asked %d times", asked.Load())
	}
}

// TestRedirects: registries send to where blobs are, but not out of TLS.
func TestRedirects(t *testing.T) {
	b := bundletest.Small(t)
	plain := httptest.NewServer(b.Handler())
	defer plain.Close()
	secure := httptest.NewTLSServer(b.Handler())
	defer secure.Close()
	for name, tc := range map[string]struct {
		to   string
		want error
	}{"to TLS": {secure.URL, nil}, "out of TLS": {plain.URL, ErrRedirect}} {
		t.Run(name, func(t *testing.T) {
			registry := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, tc.to+r.URL.Path, http.StatusTemporaryRedirect)
			}))
			defer registry.Close()
			_, err := Install(t.Context(), b.Set(), Options{Root: t.TempDir(), Sources: []string{registry.URL}, Transport: registry.Client().Transport})
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestToken: public registries want a token even of strangers; it goes to nobody else.
func TestToken(t *testing.T) {
	b := bundletest.Small(t)
	var registry *httptest.Server
	var granted, asked atomic.Int64
	registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			granted.Add(1)
			if r.URL.Query().Get("service") != "registry" || r.URL.Query().Get("scope") != "repository:x:pull" {
				t.Errorf("asked for %s", r.URL.RawQuery)
			}
			_, _ = io.WriteString(w, `{"token":"secret-token"}`)
		case r.Header.Get("Authorization") != "Bearer secret-token":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+registry.URL+`/token",service="registry",scope="repository:x:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			asked.Add(1)
			http.StripPrefix("/mirror", b.Handler()).ServeHTTP(w, strip(r))
		}
	}))
	defer registry.Close()
	o := Options{Root: t.TempDir(), Sources: []string{registry.URL + "/mirror/"}, Parallel: 1}
	if _, err := Install(t.Context(), b.Set(), o); err != nil {
		t.Fatal(err)
	}
	if granted.Load() != 1 || asked.Load() == 0 {
		t.Errorf("%d tokens for %d requests", granted.Load(), asked.Load())
	}
}

// strip makes /v2/mirror/NAME/... what the bundle serves it as.
func strip(r *http.Request) *http.Request {
	out := r.Clone(r.Context())
	out.URL.Path = "/mirror/v2" + strings.TrimPrefix(r.URL.Path, "/v2/mirror")
	return out
}

// TestSourceURLs: what cannot be a source is refused before anything is asked.
func TestSourceURLs(t *testing.T) {
	b := bundletest.Small(t)
	for _, source := range []string{"", "registry.example.org", "ftp://example.org", "http://", "http://user:pw@example.org", "http://example.org?x=1", "http://example.org#x", "http://[::1"} {
		_, err := Install(t.Context(), b.Set(), Options{Root: t.TempDir(), Sources: []string{source}})
		if err == nil || !strings.Contains(err.Error(), "want the URL of a registry") {
			t.Errorf("%q: got %v", source, err)
		}
	}
	if _, err := Install(t.Context(), b.Set(), Options{Root: t.TempDir(), Sources: make([]string, maxSources+1)}); err == nil || !strings.Contains(err.Error(), "17 sources, at most 16") {
		t.Errorf("too many: %v", err)
	}
}

// TestEmptyDigest: a component without a digest is an error, wherever it comes from.
func TestEmptyDigest(t *testing.T) {
	set := *bundletest.Small(t).Set()
	set.Components = append([]componentset.Component{}, set.Components...)
	set.Components[0].Digest = ""
	_, err := Install(t.Context(), &set, Options{Root: t.TempDir(), Sources: []string{"http://127.0.0.1:1"}})
	if !errors.Is(err, componentset.ErrDigest) {
		t.Errorf("got %v", err)
	}
}
