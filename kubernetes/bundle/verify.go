// SPDX-License-Identifier: Apache-2.0

package bundle

import (
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
)

// Verify reads all content of the bundle and checks every digest and size, of images
// and of the programs in them. Its error joins all that is wrong, each a *Fault.
// progress may be nil; it is told how many bytes were read, and of what.
func (b *Bundle) Verify(ctx context.Context, progress func(done, total int64, detail string)) error {
	if progress == nil {
		progress = func(int64, int64, string) {}
	}
	sizes := b.contents()
	var done int64
	var faults []error
	broken := map[string]bool{}
	seen := map[string]bool{}
	for _, c := range b.set.Images() {
		img := b.images[c.Name]
		for _, digest := range img.digests() {
			if seen[digest] {
				continue
			}
			seen[digest] = true
			progress(done, b.Size(), c.Name)
			if err := b.verifyBlob(ctx, digest, sizes[digest]); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				broken[digest] = true
				faults = append(faults, &Fault{Component: c.Name, Digest: digest, Err: err})
			}
			done += sizes[digest]
		}
	}
	progress(done, b.Size(), "programs")
	for _, c := range b.set.Programs() {
		if img := b.images[c.Image]; slices.ContainsFunc(img.digests(), func(d string) bool { return broken[d] }) {
			continue // reported already, and not to be read
		}
		if err := b.verifyProgram(ctx, c); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			faults = append(faults, &Fault{Component: c.Name, Digest: c.Digest, Err: err})
		}
	}
	return errors.Join(faults...)
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
