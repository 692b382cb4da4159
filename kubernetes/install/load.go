// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// namespace is containerd's part that kubelet works with.
const namespace = "k8s.io"

// An image with this label is not removed by kubelet when the disk fills up.
const (
	pinnedLabel = "io.cri-containerd.pinned"
	pinned      = "pinned"
)

// Load gives the set's images to containerd, unpacked, under the references
// componentset.Component has for them. It may be called again after any failure; what
// containerd has already costs a question.
func Load(ctx context.Context, socket string, in *Installed) error {
	client, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer client.Close()
	l := &loader{in: in, client: client}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0)) // decompression is what takes time
	load := func(c componentset.Component) {
		group.Go(func() error {
			if err := l.image(ctx, c); err != nil {
				return localError(in.Root, fmt.Errorf("load image %s: %w", c.Name, err))
			}
			return nil
		})
	}
	for _, c := range in.Set.Images() {
		load(c)
	}
	return group.Wait()
}

type loader struct {
	in     *Installed
	client *containerd.Client
	// writing lets one image at a time write: images share blobs, of which containerd takes only one copy at a time.
	writing sync.Mutex
}

func (l *loader) image(ctx context.Context, c componentset.Component) error {
	manifest, err := readManifest(l.in.blobs, c)
	if err != nil {
		return err
	}
	if loaded, err := isLoaded(ctx, l.client, c); err != nil || loaded {
		return err
	}
	target := descriptor(c)
	// What is written is safe from containerd's garbage collection until something refers to it.
	ctx, release, err := l.client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = release(context.WithoutCancel(ctx)) }() // leases end by themselves, too
	if err := l.write(ctx, append(manifest.Blobs(), target)); err != nil {
		return err
	}
	children := images.SetChildrenLabels(l.client.ContentStore(), images.ChildrenHandler(l.client.ContentStore()))
	if err := images.Walk(ctx, children, target); err != nil {
		return err
	}
	if err := containerd.NewImage(l.client, images.Image{Name: c.Reference(), Target: target}).Unpack(ctx, ""); err != nil {
		return err
	}
	// The names come last: what has one is complete.
	for _, name := range []string{c.InstalledReference(), c.Reference()} {
		if err := nameImage(ctx, l.client.ImageService(), name, target); err != nil {
			return err
		}
	}
	return nil
}

func descriptor(c componentset.Component) v1.Descriptor {
	return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.Digest(c.Digest), Size: c.Size}
}

// isLoaded says whether an earlier call has given the image to containerd.
func isLoaded(ctx context.Context, client *containerd.Client, c componentset.Component) (bool, error) {
	for _, name := range []string{c.Reference(), c.InstalledReference()} {
		image, err := client.GetImage(ctx, name)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if string(image.Target().Digest) != c.Digest || image.Labels()[pinnedLabel] != pinned {
			return false, nil
		}
		unpacked, err := image.IsUnpacked(ctx, "")
		if err != nil || !unpacked {
			return false, err
		}
	}
	return true, nil
}

// write gives content to containerd, which checks each digest once more.
func (l *loader) write(ctx context.Context, blobs []v1.Descriptor) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for _, d := range blobs {
		f, err := os.Open(l.in.blobs.path(string(d.Digest)))
		if err != nil {
			return err
		}
		err = content.WriteBlob(ctx, l.client.ContentStore(), "constellation-"+oci.Hex(string(d.Digest)), f, d)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func nameImage(ctx context.Context, service images.Store, name string, target v1.Descriptor) error {
	image := images.Image{Name: name, Target: target, Labels: map[string]string{pinnedLabel: pinned}}
	_, err := service.Update(ctx, image, "target", "labels."+pinnedLabel)
	if errdefs.IsNotFound(err) {
		_, err = service.Create(ctx, image)
	}
	return err
}
