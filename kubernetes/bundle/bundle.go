// SPDX-License-Identifier: Apache-2.0

// Package bundle reads a folder that holds everything of a component set, checks it,
// and serves it to nodes.
//
// A bundle is an OCI image layout (oci-layout, index.json, blobs/sha256) with the
// component set beside it (components.json). Other tools that know layouts can
// read, copy and mirror it (docs/components.md).
//
// Nothing in it is trusted by nodes, who check all that they fetch. Open and Verify
// find out what is broken before a node does: Open checks the set, the manifests, and
// that the rest is there, in the right sizes; Verify reads every byte.
//
// Not guaranteed: that the set is the one that somebody meant. Compare its digest.
package bundle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// SetFile is the name of the component set in a bundle.
const SetFile = "components.json"

const maxIndex = 1 << 20

// ErrNotABundle says that a folder is none.
var ErrNotABundle = errors.New("not a bundle: want a folder with oci-layout, index.json, blobs and " + SetFile)

// Fault is something of a bundle that is not as its set says.
type Fault struct {
	// Component is the name of the image or program.
	Component string `json:"component"`
	// Digest is that of the content that is missing or wrong.
	Digest string `json:"digest"`
	Err    error  `json:"-"`
}

func (f *Fault) Error() string { return fmt.Sprintf("%s: %s: %v", f.Component, f.Digest, f.Err) }
func (f *Fault) Unwrap() error { return f.Err }

// Errors of faults. Others are those of package oci and of the file system.
var (
	// ErrMissing says that content is not there.
	ErrMissing = errors.New("missing")
	// ErrSize says that content is longer or shorter than it must be.
	ErrSize = errors.New("wrong size")
	// ErrUnlisted says that an image is missing in index.json, where other tools look.
	ErrUnlisted = errors.New("index.json does not list it")
	// ErrContent says that content is not what its digest says.
	ErrContent = errors.New("the content is not that of its digest")
)

// Bundle is an open bundle.
type Bundle struct {
	dir    string
	set    *componentset.Set
	images map[string]*image // by name
}

type image struct {
	component componentset.Component
	manifest  *oci.Manifest
	blobs     map[string]v1.Descriptor // by digest
}

// Open reads the bundle in a folder. Its errors are ErrNotABundle, those of
// componentset.Parse, and joined *Fault.
func Open(dir string) (*Bundle, error) {
	b := &Bundle{dir: dir, images: map[string]*image{}}
	if err := b.readLayout(); err != nil {
		return nil, err
	}
	data, err := readBounded(filepath.Join(dir, SetFile), componentset.MaxEncoding)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotABundle, err)
	}
	if b.set, err = componentset.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, SetFile), err)
	}
	var faults []error
	listed, err := b.readIndex()
	if err != nil {
		return nil, err
	}
	for _, c := range b.set.Images() {
		if !listed[c.Digest] {
			faults = append(faults, &Fault{Component: c.Name, Digest: c.Digest, Err: ErrUnlisted})
		}
		img, found := b.openImage(c)
		b.images[c.Name] = img
		faults = append(faults, found...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return b, nil
}

func (b *Bundle) readLayout() error {
	data, err := readBounded(filepath.Join(b.dir, v1.ImageLayoutFile), maxIndex)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotABundle, err)
	}
	var layout v1.ImageLayout
	if err := strictjson.Decode(data, &layout); err != nil || layout.Version != v1.ImageLayoutVersion {
		return fmt.Errorf("%w: %s is not that of an OCI image layout %s", ErrNotABundle, v1.ImageLayoutFile, v1.ImageLayoutVersion)
	}
	return nil
}

// readIndex returns the digests of the manifests that other tools find in the layout.
func (b *Bundle) readIndex() (map[string]bool, error) {
	data, err := readBounded(filepath.Join(b.dir, v1.ImageIndexFile), maxIndex)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotABundle, err)
	}
	var index v1.Index
	if err := strictjson.Decode(data, &index); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotABundle, v1.ImageIndexFile, err)
	}
	listed := map[string]bool{}
	for _, d := range index.Manifests {
		listed[string(d.Digest)] = true
	}
	return listed, nil
}

// openImage checks an image's manifest, and that the rest of it is there.
func (b *Bundle) openImage(c componentset.Component) (*image, []error) {
	img := &image{component: c, blobs: map[string]v1.Descriptor{}}
	fault := func(digest string, err error) error { return &Fault{Component: c.Name, Digest: digest, Err: err} }
	if err := b.checkSize(c.Digest, c.Size); err != nil {
		return nil, []error{fault(c.Digest, err)}
	}
	data, err := readBounded(b.blobPath(c.Digest), componentset.MaxManifest)
	if err != nil {
		return nil, []error{fault(c.Digest, err)}
	}
	if oci.Digest(data) != c.Digest {
		return nil, []error{fault(c.Digest, ErrContent)}
	}
	if img.manifest, err = oci.ParseManifest(data); err != nil {
		return nil, []error{fault(c.Digest, err)}
	}
	var faults []error
	for _, d := range img.manifest.Blobs() {
		img.blobs[string(d.Digest)] = d
		if err := b.checkSize(string(d.Digest), d.Size); err != nil {
			faults = append(faults, fault(string(d.Digest), err))
		}
	}
	return img, faults
}

// Set is the bundle's component set.
func (b *Bundle) Set() *componentset.Set { return b.set }

// Size is the number of bytes of all content, each counted once: what a node that
// has nothing downloads.
func (b *Bundle) Size() int64 {
	var total int64
	for _, size := range b.contents() {
		total += size
	}
	return total
}

// contents are the sizes of everything that the set consists of, by digest.
func (b *Bundle) contents() map[string]int64 {
	out := map[string]int64{}
	for _, img := range b.images {
		out[img.component.Digest] = img.component.Size
		for digest, d := range img.blobs {
			out[digest] = d.Size
		}
	}
	return out
}

// blobPath is where content is. The digest is sound.
func (b *Bundle) blobPath(digest string) string {
	return filepath.Join(b.dir, v1.ImageBlobsDir, "sha256", oci.Hex(digest))
}

func (b *Bundle) checkSize(digest string, size int64) error {
	info, err := os.Stat(b.blobPath(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrMissing
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return oci.ErrNotAFile
	case info.Size() != size:
		return fmt.Errorf("%w: %d bytes, not %d", ErrSize, info.Size(), size)
	}
	return nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: %w: at most %d bytes", path, oci.ErrTooLarge, limit)
	}
	return data, err
}
