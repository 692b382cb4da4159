// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":100},` +
	`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":200}]}`

func TestParseManifest(t *testing.T) {
	m, err := ParseManifest([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	if blobs := m.Blobs(); len(blobs) != 2 || blobs[0].Size != 100 || string(blobs[1].Digest) != "sha256:"+strings.Repeat("b", 64) {
		t.Errorf("blobs %v", blobs)
	}
	layer := manifest[strings.Index(manifest, `{"mediaType":"application/vnd.oci.image.layer`) : len(manifest)-2]
	for name, tc := range map[string]struct {
		old, with string
		want      error
	}{
		"an index":               {"image.manifest.v1", "image.index.v1", ErrMediaType},
		"no media type":          {`"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", ErrMediaType},
		"another schema":         {`"schemaVersion":2`, `"schemaVersion":1`, ErrMediaType},
		"another configuration":  {"image.config.v1", "image.confix.v1", ErrMediaType},
		"a foreign layer":        {"image.layer.v1.tar+zstd", "image.layer.nondistributable.v1.tar", ErrMediaType},
		"unknown field":          {`"layers"`, `"urls":[],"layers"`, strictjson.ErrUnknown},
		"empty digest":           {"sha256:" + strings.Repeat("b", 64), "", ErrDigest},
		"another algorithm":      {"sha256:aaaa", "sha512:aaaa", ErrDigest},
		"digest that is a path":  {"sha256:" + strings.Repeat("b", 64), "sha256:../" + strings.Repeat("b", 61), ErrDigest},
		"negative size":          {`"size":200`, `"size":-200`, ErrSize},
		"no size":                {`,"size":200`, ``, ErrSize},
		"huge layer":             {`"size":200`, `"size":2147483649`, ErrSize},
		"huge configuration":     {`"size":100`, `"size":1048577`, ErrSize},
		"too many layers":        {layer, strings.Repeat(layer+",", MaxLayers) + layer, ErrTooLarge},
		"too large":              {`{"schemaVersion"`, strings.Repeat(" ", componentset.MaxManifest) + `{"schemaVersion"`, ErrTooLarge},
		"cut off":                {`}]}`, ``, strictjson.ErrTruncated},
		"something behind":       {`}]}`, `}]}x`, strictjson.ErrTrailing},
		"another case of a name": {`"digest":"sha256:b`, `"DIGEST":"sha256:b`, strictjson.ErrSpelling},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(manifest, tc.old, tc.with, 1)
			if text == manifest {
				t.Fatal("nothing was changed")
			}
			if _, err := ParseManifest([]byte(text)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifest))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		for _, d := range m.Blobs() {
			if !componentset.IsDigest(string(d.Digest)) || len(Hex(string(d.Digest))) != 64 || d.Size < 1 {
				t.Fatalf("accepted %+v", d)
			}
		}
	})
}

type entry struct {
	name, content string
	kind          byte
	target        string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.target, Size: int64(len(e.content)), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files finds paths in an image of layers that are not compressed.
func files(layers [][]byte, paths ...string) (map[string]string, error) {
	m := &Manifest{}
	for i := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Size: int64(i)})
	}
	out := map[string]string{}
	err := m.Files(paths, func(d v1.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layers[d.Size])), nil
	}, func(path string, content io.Reader) error {
		data, err := io.ReadAll(content)
		out[path] = string(data)
		return err
	})
	return out, err
}

func TestFiles(t *testing.T) {
	lower := archive(t, entry{name: "./a", content: "lower a"}, entry{name: "./dir/b", content: "lower b"})
	upper := archive(t, entry{name: "a", content: "upper a"}, entry{name: "c", content: "c"})
	got, err := files([][]byte{lower, upper}, "a", "dir/b")
	if err != nil || len(got) != 2 || got["a"] != "upper a" || got["dir/b"] != "lower b" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := files([][]byte{lower, upper}, "missing"); err == nil || err.Error() != "missing: the image has no such file" {
		t.Errorf("got %v", err)
	}
}

func TestFilesRefuses(t *testing.T) {
	file := entry{name: "usr/bin/kubelet", content: "x"}
	for name, tc := range map[string]struct {
		layer []byte
		want  error
	}{
		"the program is a symbolic link": {archive(t, entry{name: "usr/bin/kubelet", kind: tar.TypeSymlink, target: "/etc/shadow"}), ErrNotAFile},
		"the program is a hard link":     {archive(t, entry{name: "usr/bin/kubelet", kind: tar.TypeLink, target: "x"}), ErrNotAFile},
		"the program is a folder":        {archive(t, entry{name: "usr/bin/kubelet", kind: tar.TypeDir}), ErrNotAFile},
		"the program is a device":        {archive(t, entry{name: "usr/bin/kubelet", kind: tar.TypeBlock}), ErrNotAFile},
		"a path above the root":          {archive(t, entry{name: "../evil"}, file), ErrTraversal},
		"a path that goes up inside":     {archive(t, entry{name: "usr/../../evil"}, file), ErrTraversal},
		"an absolute path":               {archive(t, entry{name: "/etc/passwd"}, file), ErrTraversal},
		"a whiteout":                     {archive(t, entry{name: "usr/.wh.bin"}, file), ErrWhiteout},
		"cut off":                        {archive(t, file)[:300], io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := files([][]byte{tc.layer}, "usr/bin/kubelet"); !errors.Is(err, tc.want) || len(got) != 0 {
				t.Errorf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

// TestDecompress: each of the kinds of layers is read to its end, and none forever.
func TestDecompress(t *testing.T) {
	plain := archive(t, entry{name: "a", content: "content"})
	var zipped bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	if _, err := gz.Write(plain); err != nil || gz.Close() != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	for mediaType, layer := range map[string][]byte{
		v1.MediaTypeImageLayer: plain, v1.MediaTypeImageLayerGzip: zipped.Bytes(), v1.MediaTypeImageLayerZstd: encoder.EncodeAll(plain, nil),
	} {
		r, done, err := Decompress(bytes.NewReader(layer), mediaType)
		if err != nil {
			t.Fatal(err)
		}
		names := ""
		err = Walk(r, func(name string, _ *tar.Header, _ io.Reader) error { names += name; return nil })
		if err != nil || names != "a" {
			t.Errorf("%s: %q, %v", mediaType, names, err)
		}
		done()
	}
	if _, _, err := Decompress(nil, "text/plain"); !errors.Is(err, ErrMediaType) {
		t.Errorf("unknown media type: %v", err)
	}
	if _, err := io.Copy(io.Discard, &bounded{endless{}, 1 << 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a bomb: %v", err)
	}
}

// TestEntries: a layer may have many entries, and not more.
func TestEntries(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range MaxEntries + 1 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeDir}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	err := Walk(&b, func(string, *tar.Header, io.Reader) error { return nil })
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
