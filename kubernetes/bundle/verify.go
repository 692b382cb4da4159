// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Verify reads all content of the bundle and checks every digest and size, of images
// and of the programs in them, and that layers stay below their root. Its error joins
// all that is wrong, each a *Fault. progress may be nil; it is told how many bytes
// were read, and of what.
func (b *Bundle) Verify(ctx context.Context, progress func(done, total int64, detail string)) error {
	if progress == nil {
		progress = func(int64, int64, string) {}
	}
	v := &verification{Bundle: b, progress: progress, sizes: b.contents(), total: b.Size(), results: map[string]error{}}
	for _, c := range b.set.Images() {
		v.image(ctx, b.images[c.Name])
	}
	for _, c := range b.set.Programs() {
		v.program(ctx, c)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	progress(v.total, v.total, "programs")
	return errors.Join(v.faults...)
}

type verification struct {
	*Bundle
	progress    func(done, total int64, detail string)
	sizes       map[string]int64
	done, total int64
	results     map[string]error // by digest
	faults      []error
}

func (v *verification) fault(component, digest string, err error) {
	v.faults = append(v.faults, &Fault{Component: component, Digest: digest, Err: err})
}

// image checks what no image before it had.
func (v *verification) image(ctx context.Context, img *image) {
	name := img.component.Name
	for _, digest := range img.digests() {
		if _, ok := v.results[digest]; ok {
			continue
		}
		v.progress(v.done, v.total, name)
		v.results[digest] = v.verifyBlob(ctx, digest, v.sizes[digest])
		v.done += v.sizes[digest]
		if err := v.results[digest]; err != nil {
			v.fault(name, digest, err)
		}
	}
	if v.isBroken(img) {
		return
	}
	diffIDs, err := v.diffIDs(img)
	if err != nil {
		v.fault(name, string(img.manifest.Config.Digest), err)
		return
	}
	for i, layer := range img.manifest.Layers {
		key := string(layer.Digest) + diffIDs[i]
		if _, ok := v.results[key]; ok {
			continue
		}
		v.results[key] = v.verifyLayer(ctx, layer, diffIDs[i])
		if err := v.results[key]; err != nil {
			v.fault(name, string(layer.Digest), err)
		}
	}
}

// isBroken says whether something of an image was reported, so that the rest makes no sense.
func (v *verification) isBroken(img *image) bool {
	return slices.ContainsFunc(img.digests(), func(d string) bool { return v.results[d] != nil })
}

func (v *verification) program(ctx context.Context, c componentset.Component) {
	if v.isBroken(v.images[c.Image]) {
		return
	}
	if err := v.verifyProgram(ctx, c); err != nil {
		v.fault(c.Name, c.Digest, err)
	}
}

// diffIDs are the digests of the image's layers without their compression, as its configuration has them.
func (b *Bundle) diffIDs(img *image) ([]string, error) {
	data, err := readBounded(b.blobPath(string(img.manifest.Config.Digest)), oci.MaxConfig)
	if err != nil {
		return nil, err
	}
	var config v1.Image
	if err := strictjson.Decode(data, &config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var out []string
	for _, id := range config.RootFS.DiffIDs {
		out = append(out, string(id))
	}
	if len(out) != len(img.manifest.Layers) {
		return nil, fmt.Errorf("configuration: %w: %d layers, the manifest has %d", ErrContent, len(out), len(img.manifest.Layers))
	}
	return out, nil
}

// verifyLayer reads a layer as a container runtime does.
func (b *Bundle) verifyLayer(ctx context.Context, layer v1.Descriptor, diffID string) error {
	f, err := os.Open(b.blobPath(string(layer.Digest)))
	if err != nil {
		return err
	}
	defer f.Close()
	archive, done, err := oci.Decompress(&interruptible{ctx, f}, layer.MediaType)
	if err != nil {
		return err
	}
	defer done()
	sum := sha256.New()
	plain := io.TeeReader(archive, sum)
	if err := oci.Walk(plain, func(string, *tar.Header, io.Reader) error { return nil }); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != diffID {
		return fmt.Errorf("decompressed: %w", ErrContent)
	}
	return nil
}

// digests are those of the image's manifest, configuration and layers.
func (i *image) digests() []string {
	out := []string{i.component.Digest}
	for _, d := range i.manifest.Blobs() {
		out = append(out, string(d.Digest))
	}
	return out
}

func (b *Bundle) verifyBlob(ctx context.Context, digest string, size int64) error {
	if err := b.checkSize(digest, size); err != nil {
		return err
	}
	f, err := os.Open(b.blobPath(digest))
	if err != nil {
		return err
	}
	defer f.Close()
	return checkContent(ctx, f, digest, size)
}

func (b *Bundle) verifyProgram(ctx context.Context, c componentset.Component) error {
	open := func(layer v1.Descriptor) (io.ReadCloser, error) { return os.Open(b.blobPath(string(layer.Digest))) }
	return b.images[c.Image].manifest.Files([]string{c.Path}, open, func(_ string, content io.Reader) error {
		return checkContent(ctx, content, c.Digest, c.Size)
	})
}

// checkContent reads r to its end, or until it is clearly too long.
func checkContent(ctx context.Context, r io.Reader, digest string, size int64) error {
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(&interruptible{ctx, r}, size+1))
	switch {
	case err != nil:
		return err
	case n != size:
		return fmt.Errorf("%w: want %d bytes", ErrSize, size)
	case hex.EncodeToString(sum.Sum(nil)) != oci.Hex(digest):
		return ErrContent
	}
	return nil
}

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
