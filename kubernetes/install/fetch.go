// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// reserve is what stays free on the disk, in bytes.
const reserve = 64 << 20

// blob is content that a set needs.
type blob struct {
	image, digest string
	size          int64
	manifest      bool
}

type fetcher struct {
	blobs    *store
	sources  *sources
	parallel int
	progress progress
}

// fetch completes the store with what the set needs, and returns the images' manifests by their names.
func fetch(ctx context.Context, set *componentset.Set, blobs *store, o Options) (map[string]*oci.Manifest, error) {
	list, err := newSources(o)
	if err != nil {
		return nil, err
	}
	f := &fetcher{blobs: blobs, sources: list, parallel: cmp.Or(o.Parallel, DefaultParallel), progress: progress{report: o.Progress}}
	var wanted []blob
	for _, c := range set.Images() {
		wanted = append(wanted, blob{image: c.Name, digest: c.Digest, size: c.Size, manifest: true})
	}
	if err := f.all(ctx, wanted); err != nil {
		return nil, err
	}
	manifests := map[string]*oci.Manifest{}
	for _, c := range set.Images() {
		if manifests[c.Name], err = readManifest(blobs, c); err != nil {
			return nil, err
		}
	}
	contents := contentsOf(manifests)
	if err := f.checkSpace(contents, set, o); err != nil {
		return nil, err
	}
	f.progress.expect(wanted, contents)
	if err := f.all(ctx, contents); err != nil {
		return nil, err
	}
	return manifests, nil
}

func readManifest(blobs *store, c componentset.Component) (*oci.Manifest, error) {
	data, err := blobs.read(c.Digest, componentset.MaxManifest)
	if err != nil {
		return nil, err
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.Name, err)
	}
	return m, nil
}

// contentsOf are the configurations and layers of images, each once, the largest first.
func contentsOf(manifests map[string]*oci.Manifest) []blob {
	seen := map[string]bool{}
	var out []blob
	for image, m := range manifests {
		for _, d := range m.Blobs() {
			if digest := string(d.Digest); !seen[digest] {
				seen[digest] = true
				out = append(out, blob{image: image, digest: digest, size: d.Size})
			}
		}
	}
	slices.SortFunc(out, func(a, b blob) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.digest, b.digest))
	})
	return out
}

// checkSpace refuses what will not fit, before the disk is full of the half of it.
func (f *fetcher) checkSpace(contents []blob, set *componentset.Set, o Options) error {
	var need int64
	for _, b := range contents {
		if _, err := os.Stat(f.blobs.path(b.digest)); errors.Is(err, fs.ErrNotExist) {
			need += b.size - min(b.size, f.blobs.partialSize(b.digest))
		}
	}
	if _, err := os.Stat(setDir(o.Root, set)); errors.Is(err, fs.ErrNotExist) {
		sizes := map[string]int64{}
		for _, c := range set.Programs() {
			sizes[c.Digest] = c.Size
		}
		for _, size := range sizes {
			need += size
		}
	}
	measure := free
	if o.free != nil {
		measure = o.free
	}
	available, err := measure(o.Root)
	if err != nil {
		return err
	}
	if need > 0 && need+reserve > available {
		return &SpaceError{Dir: o.Root, Need: need + reserve, Free: available}
	}
	return nil
}

// all gets several blobs into the store. The first that cannot be had ends it.
func (f *fetcher) all(ctx context.Context, blobs []blob) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(f.parallel)
	get := func(b blob) { group.Go(func() error { return f.one(ctx, b) }) }
	for _, b := range blobs {
		get(b)
	}
	return group.Wait()
}

func (f *fetcher) one(ctx context.Context, b blob) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	there, err := f.blobs.has(b.digest, b.size)
	if err != nil {
		return err
	}
	if there {
		f.progress.add(b, b.size)
		return nil
	}
	d, err := f.blobs.begin(b.digest, b.size)
	if err != nil {
		return localError(f.blobs.partial, err)
	}
	defer d.file.Close()
	f.progress.add(b, d.size)
	if err := f.fromAnySource(ctx, b, d); err != nil {
		return localError(f.blobs.partial, err)
	}
	return localError(f.blobs.partial, d.commit())
}

func (f *fetcher) fromAnySource(ctx context.Context, b blob, d *download) error {
	if d.size == b.size && d.isRight() {
		return nil // an earlier call was cut off at the very end
	}
	failure := &FetchError{Image: b.image, Digest: b.digest}
	order := f.sources.inOrder()
	if len(order) == 0 {
		return ErrNoSources
	}
	for _, s := range order {
		err := f.fromSource(ctx, s, b, d)
		var local *diskError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &local):
			return local.err
		}
		f.sources.failed(s)
		failure.Sources = append(failure.Sources, &SourceError{Source: s.name, Err: err})
	}
	return failure
}

// fromSource asks one source until it has delivered, has failed, or gets nowhere.
func (f *fetcher) fromSource(ctx context.Context, s *source, b blob, d *download) error {
	for {
		before := d.size
		err := f.attempt(ctx, s, b, d)
		switch {
		case err == nil && d.isRight():
			return nil
		case err == nil || errors.Is(err, errRange):
			// What was there before may have been another source's, and wrong: this one has a go at all of it.
			f.progress.add(b, -d.size)
			if restartErr := d.restart(); restartErr != nil {
				return &diskError{restartErr}
			}
			if before == 0 {
				return cmp.Or(err, ErrContent)
			}
		case errors.Is(err, ErrTruncated) && d.size-before >= MinProgress:
			// It got somewhere: a connection that was cut is no reason to leave the source.
		default:
			return err
		}
	}
}

// progress adds up what is there.
type progress struct {
	report func(done, total int64, detail string)

	mu          sync.Mutex
	done, total int64
	reported    int64
}

// progressStep is how many bytes lie between two reports.
const progressStep = 1 << 20

// expect says what there is to do, once that is known.
func (p *progress) expect(lists ...[]blob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range lists {
		for _, b := range list {
			p.total += b.size
		}
	}
}

func (p *progress) add(b blob, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.report == nil || p.total == 0 {
		return
	}
	if p.done < p.reported || p.done-p.reported >= progressStep || p.done == p.total {
		p.reported = p.done
		p.report(p.done, p.total, b.image)
	}
}
