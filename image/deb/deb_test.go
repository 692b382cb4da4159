// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

type member struct {
	name    string
	content []byte
}

// archive makes an ar archive.
func archive(members ...member) []byte {
	out := bytes.NewBufferString(arMagic)
	for _, m := range members {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.content))
		out.Write(m.content)
		if len(m.content)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func tarball(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		content := strings.Repeat("x", int(h.Size))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressWith(t testing.TB, open func(io.Writer) (io.WriteCloser, error), content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var (
	version = member{"debian-binary", []byte("2.0\n")}
	control = member{"control.tar.xz", []byte("never read, not even if it is no archive")}
)

func readAll(raw []byte) ([]File, error) {
	var files []File
	err := Read(bytes.NewReader(raw), func(p string) bool { return !strings.HasPrefix(p, "skip") }, func(f File) error {
		files = append(files, f)
		return nil
	})
	return files, err
}

func TestReadEveryCompression(t *testing.T) {
	data := tarball(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/program", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 3, Uid: 7, Gid: 8},
		tar.Header{Name: "./usr/second", Typeflag: tar.TypeLink, Linkname: "./usr/program"},
		tar.Header{Name: "./usr/link", Typeflag: tar.TypeSymlink, Linkname: "../program", Mode: 0o777},
		tar.Header{Name: "./skipped", Typeflag: tar.TypeReg, Size: 5},
	)
	want := []File{
		{Path: "usr", Type: tar.TypeDir, Mode: 0o755},
		{Path: "usr/program", Type: tar.TypeReg, Mode: 0o4755, UID: 7, GID: 8, Content: []byte("xxx")},
		{Path: "usr/second", Type: tar.TypeLink, Target: "usr/program"},
		{Path: "usr/link", Type: tar.TypeSymlink, Target: "../program", Mode: 0o777},
	}
	for name, content := range map[string][]byte{
		"data.tar": data,
		"data.tar.gz": compressWith(t, func(w io.Writer) (io.WriteCloser, error) {
			return gzip.NewWriter(w), nil
		}, data),
		"data.tar.xz": compressWith(t, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }, data),
		"data.tar.zst": compressWith(t, func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w)
		}, data),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAll(archive(version, control, member{name, content}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	data := func(headers ...tar.Header) member { return member{"data.tar", tarball(t, headers...)} }
	whole := archive(version, control, data(tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 1000}))
	for _, test := range []struct {
		name   string
		raw    []byte
		format bool // the reason is ErrFormat
		reason string
	}{
		{"nothing", nil, true, "no ar magic"},
		{"another file", []byte("PK\x03\x04 and so on"), true, "no ar magic"},
		{"no version", archive(control, data()), true, "not debian-binary"},
		{"next version", archive(member{"debian-binary", []byte("3.0\n")}, data()), true, "not debian-binary"},
		{"no data", archive(version, control), true, "no data member"},
		{"unknown compression", archive(version, member{"data.tar.lz4", nil}), true, "unknown compression"},
		{"truncated", whole[:len(whole)-1500], false, "unexpected EOF"},
		{"broken ar header", bytes.Replace(whole, []byte("`\n"), []byte("??"), 1), true, "broken ar header"},
		{"path above the root", archive(version, data(tar.Header{Name: "../etc/passwd", Typeflag: tar.TypeReg})), false, "leaves the root"},
		{"hard link above the root", archive(version, data(tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../b"})), false, "leaves the root"},
		{"device", archive(version, data(tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock})), false, "not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readAll(test.raw)
			if err == nil || !strings.Contains(err.Error(), test.reason) || errors.Is(err, ErrFormat) != test.format {
				t.Errorf("error is %v, want one about %q (format: %v)", err, test.reason, test.format)
			}
		})
	}
}

func TestReadBoundsContent(t *testing.T) {
	// The header alone announces more than the limit; nothing of it may be allocated.
	header := &tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: MaxContent + 1}
	var raw bytes.Buffer
	if err := tar.NewWriter(&raw).WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(archive(version, member{"data.tar", raw.Bytes()})); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error is %v, want one about the limit", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(archive(version, control, member{"data.tar", tarball(f, tar.Header{Name: "./a", Typeflag: tar.TypeReg, Size: 3})}))
	f.Add(archive(version, member{"data.tar.xz", []byte("\xfd7zXZ\x00")}))
	f.Add(archive(version))
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := Read(bytes.NewReader(raw), func(string) bool { return true }, func(file File) error {
			if strings.HasPrefix(file.Path, "/") || strings.HasPrefix(file.Path, "..") {
				t.Errorf("path %q leaves the root", file.Path)
			}
			return nil
		})
		_ = err // any error will do; a panic will not
	})
}
