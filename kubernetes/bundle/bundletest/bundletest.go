// SPDX-License-Identifier: Apache-2.0

// Package bundletest makes small bundles for tests.
package bundletest

import (
	"archive/tar"
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/constellation-os/constellation/kubernetes/bundle"
)

// Kubernetes is the content of the program of a small bundle: too long for one
// packet, and not to be compressed.
var Kubernetes = noise(700_000)

// Small makes a bundle of two images, which share a layer, and two programs, which
// are the same file.
func Small(t testing.TB) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Create(filepath.Join(t.TempDir(), "bundle"), Contents(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Contents are those of Small, to be changed.
func Contents(t testing.TB) bundle.Contents {
	t.Helper()
	shared := Layer(t, File("usr/lib/shared", []byte("shared")))
	return bundle.Contents{
		Kubernetes: "v1.37.2",
		Images: []bundle.ImageContent{
			{Name: "kubernetes", Version: "v1.37.2", Layers: []string{shared, Layer(t, File("usr/bin/kubernetes", Kubernetes), Link("usr/bin/kubelet", "kubernetes"))}},
			{Name: "pause", Version: "v1", Layers: []string{shared, Layer(t, File("pause", []byte("pause")))}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
		},
		Programs: []bundle.ProgramContent{
			{Name: "kubelet", Image: "kubernetes", Path: "usr/bin/kubernetes", InstallPath: "bin/kubelet"},
			{Name: "kubeadm", Image: "kubernetes", Path: "usr/bin/kubernetes", InstallPath: "bin/kubeadm"},
		},
	}
}

// Entry is something in a layer.
type Entry struct {
	tar.Header
	Content []byte
}

// File is a program with some content.
func File(name string, content []byte) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}, content}
}

// Link is a symbolic link.
func Link(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil}
}

// Layer writes a layer, and returns its path.
func Layer(t testing.TB, entries ...Entry) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	path := filepath.Join(t.TempDir(), "layer.tar.zst")
	if err := os.WriteFile(path, z.EncodeAll(archive.Bytes(), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// noise is the same at every run.
func noise(n int) []byte {
	random := rand.NewChaCha8([32]byte{})
	out := make([]byte, n)
	_, _ = random.Read(out)
	return out
}
