// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of one layer, decompressed.
const (
	// MaxEntries is the most files, folders and links.
	MaxEntries = 100_000
	// MaxContent is the most bytes.
	MaxContent = 4 << 30
	// maxWindow is the most memory that a compressed layer may ask its reader for.
	maxWindow = 64 << 20
)

// Errors of Walk and of what is found by it.
var (
	ErrTraversal = errors.New("a path that leaves the root")
	ErrWhiteout  = errors.New("a whiteout")
	ErrNotAFile  = errors.New("not a regular file")
)

// Decompress reads the archive in a layer. done frees what that takes.
func Decompress(layer io.Reader, mediaType string) (archive io.Reader, done func(), err error) {
	switch mediaType {
	case v1.MediaTypeImageLayer:
		return &bounded{layer, MaxContent}, func() {}, nil
	case v1.MediaTypeImageLayerGzip:
		z, err := gzip.NewReader(bufio.NewReader(layer))
		if err != nil {
			return nil, nil, fmt.Errorf("layer: %w", err)
		}
		return &bounded{z, MaxContent}, func() {}, nil
	case v1.MediaTypeImageLayerZstd:
		z, err := zstd.NewReader(layer, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("layer: %w", err)
		}
		return &bounded{z, MaxContent}, z.Close, nil
	}
	return nil, nil, fmt.Errorf("layer: %w", ErrMediaType)
}

// Walk calls visit for the entries of a layer's archive in their order, with their
// paths clean and below the root. visit may read the entry's content, and ends the
// walk with io.EOF.
func Walk(archive io.Reader, visit func(name string, header *tar.Header, content io.Reader) error) error {
	entries := tar.NewReader(archive)
	for n := 0; ; n++ {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		if n == MaxEntries {
			return fmt.Errorf("layer: %w: more than %d entries", ErrTooLarge, MaxEntries)
		}
		name, err := cleanName(header.Name)
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		if err := visit(name, header, entries); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(name, "./"))
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%.80q: %w", name, ErrTraversal)
	}
	if strings.HasPrefix(path.Base(clean), ".wh.") {
		return "", fmt.Errorf("%.80q: %w", name, ErrWhiteout)
	}
	return clean, nil
}

// bounded fails once more than so many bytes were read: an archive that is cut off must not look whole.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(MaxContent))
	}
	return n, err
}

// Files finds files of an image. open opens a layer by its place in the manifest;
// found is called for each of the paths once, with the content of the file, in no
// particular order. A path that the image has not, or not as a file, is an error.
func (m *Manifest) Files(paths []string, open func(layer v1.Descriptor) (io.ReadCloser, error), found func(path string, content io.Reader) error) error {
	wanted := map[string]bool{}
	for _, p := range paths {
		wanted[p] = true
	}
	// A file of an upper layer hides that of a lower one.
	for i := len(m.Layers) - 1; i >= 0 && len(wanted) > 0; i-- {
		if err := searchLayer(m.Layers[i], wanted, open, found); err != nil {
			return err
		}
	}
	for p := range wanted {
		return fmt.Errorf("%s: the image has no such file", p)
	}
	return nil
}

func searchLayer(layer v1.Descriptor, wanted map[string]bool, open func(v1.Descriptor) (io.ReadCloser, error), found func(string, io.Reader) error) error {
	r, err := open(layer)
	if err != nil {
		return err
	}
	defer r.Close()
	archive, done, err := Decompress(r, layer.MediaType)
	if err != nil {
		return err
	}
	defer done()
	return Walk(archive, func(name string, header *tar.Header, content io.Reader) error {
		if !wanted[name] {
			return nil
		}
		if header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s: %w", name, ErrNotAFile)
		}
		delete(wanted, name)
		if err := found(name, content); err != nil {
			return err
		}
		if len(wanted) == 0 {
			return io.EOF
		}
		return nil
	})
}
