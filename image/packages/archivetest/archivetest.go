// SPDX-License-Identifier: Apache-2.0

// Package archivetest is a small signed Debian archive for tests: packages are
// added, then served like a mirror would, and every file can be spoiled.
package archivetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Date is when the archive's releases are made, unless a test says otherwise.
var Date = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A Package is what a test says about one package of the archive.
type Package struct {
	Name, Version string
	Fields        map[string]string // further control fields
	Copyright     string            // its copyright file; none if empty
	SharesDoc     string            // its documentation is a link to this package's
}

// An Archive is a mirror of one or more suites, all under one base address.
type Archive struct {
	Key        *openpgp.Entity
	Codename   string // what release files claim to be, if not the suite's name
	Date       time.Time
	ValidUntil time.Time // no such field if zero

	mutex    sync.Mutex
	files    map[string][]byte
	requests map[string]int
	indices  map[string]*bytes.Buffer
}

// New makes an empty archive with a key of its own.
func New(t testing.TB) *Archive {
	t.Helper()
	return &Archive{
		Key: NewKey(t), Date: Date,
		files: map[string][]byte{}, requests: map[string]int{}, indices: map[string]*bytes.Buffer{},
	}
}

// NewKey makes a signing key that is valid at Date.
func NewKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return Date.AddDate(-1, 0, 0) }}
	key, err := openpgp.NewEntity("Test archive", "", "archive@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Keyring gives the public part of the archive's key as a keyring file holds it.
func (a *Archive) Keyring(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Key.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Add puts packages into a suite.
func (a *Archive) Add(t testing.TB, suite string, packages ...Package) {
	t.Helper()
	index := a.indices[suite]
	if index == nil {
		index = new(bytes.Buffer)
		a.indices[suite] = index
	}
	for _, p := range packages {
		deb := p.deb(t)
		path := fmt.Sprintf("pool/main/%s/%s_%s_amd64.deb", p.Name, p.Name, p.Version)
		a.files[path] = deb
		fmt.Fprintf(index, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %x\nInstalled-Size: 4\nDescription: for a test\n and\n .\n no more\n",
			p.Name, p.Version, path, len(deb), sha256.Sum256(deb))
		for _, field := range slices.Sorted(maps.Keys(p.Fields)) {
			fmt.Fprintf(index, "%s: %s\n", field, p.Fields[field])
		}
		index.WriteByte('\n')
	}
}

// Release writes the index and the signed release file of a suite.
func (a *Archive) Release(t testing.TB, suite string) {
	t.Helper()
	plain := a.indices[suite].Bytes()
	packed := compress(t, plain)
	dir := "dists/" + suite + "/"
	a.files[dir+"main/binary-amd64/Packages.xz"] = packed
	codename := a.Codename
	if codename == "" {
		codename = suite
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Origin: Test\nLabel: Test\nSuite: stable\nCodename: %s\nDate: %s\n", codename, a.Date.Format(time.RFC1123))
	if !a.ValidUntil.IsZero() {
		fmt.Fprintf(&text, "Valid-Until: %s\n", a.ValidUntil.Format(time.RFC1123))
	}
	fmt.Fprintf(&text, "SHA256:\n %x %d main/binary-amd64/Packages\n %x %d main/binary-amd64/Packages.xz\n",
		sha256.Sum256(plain), len(plain), sha256.Sum256(packed), len(packed))
	a.files[dir+"InRelease"] = Sign(t, a.Key, text.String())
}

// Sign makes a clear-signed message.
func Sign(t testing.TB, key *openpgp.Entity, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return Date }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// File gives a file of the archive by its path.
func (a *Archive) File(t testing.TB, path string) []byte {
	t.Helper()
	data, ok := a.files[path]
	if !ok {
		t.Fatalf("the archive has no %s", path)
	}
	return data
}

// Replace puts other bytes in place of a file; nil takes it away.
func (a *Archive) Replace(t testing.TB, path string, data []byte) {
	t.Helper()
	a.File(t, path)
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if data == nil {
		delete(a.files, path)
		return
	}
	a.files[path] = data
}

// Requests counts how often a path was asked for.
func (a *Archive) Requests(path string) int {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.requests[path]
}

// Serve starts a mirror and gives its base address.
func (a *Archive) Serve(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/debian/")
		a.mutex.Lock()
		a.requests[path]++
		data, ok := a.files[path]
		a.mutex.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/debian"
}

func compress(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// deb makes a package whose only content is its documentation.
func (p Package) deb(t testing.TB) []byte {
	t.Helper()
	var data bytes.Buffer
	packed := gzip.NewWriter(&data)
	files := tar.NewWriter(packed)
	write := func(header *tar.Header, content string) {
		header.Size = int64(len(content))
		if err := files.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	doc := "./usr/share/doc/" + p.Name
	switch {
	case p.SharesDoc != "":
		write(&tar.Header{Name: doc, Typeflag: tar.TypeSymlink, Linkname: p.SharesDoc, Mode: 0o777}, "")
	case p.Copyright != "":
		write(&tar.Header{Name: doc + "/copyright", Typeflag: tar.TypeReg, Mode: 0o644}, p.Copyright)
	}
	for _, closer := range []interface{ Close() error }{files, packed} {
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, member := range []struct{ name, content string }{
		{"debian-binary", "2.0\n"}, {"control.tar", strings.Repeat("\x00", 1024)}, {"data.tar.gz", data.String()},
	} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", member.name, 0, 0, 0, "100644", len(member.content), member.content)
		if len(member.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}
