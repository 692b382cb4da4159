// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"os"
	"runtime"

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
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0)) // decompression is what takes time
	load := func(c componentset.Component) {
		group.Go(func() error {
			if err := in.loadImage(ctx, client, c); err != nil {
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

func (i *Installed) loadImage(ctx context.Context, client *containerd.Client, c componentset.Component) error {
	manifest, err := readManifest(i.blobs, c)
	if err != nil {
		return err
	}
	target := descriptor(c)
	if loaded, err := isLoaded(ctx, client, c); err != nil || loaded {
		return err
	}
	// What is written is safe from containerd's garbage collection until something refers to it.
	ctx, release, err := client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = release(context.WithoutCancel(ctx)) }() // leases end by themselves, too
	for _, d := range append(manifest.Blobs(), target) {
		if err := i.loadBlob(ctx, client.ContentStore(), d); err != nil {
			return err
		}
	}
	children := images.SetChildrenLabels(client.ContentStore(), images.ChildrenHandler(client.ContentStore()))
	if err := images.Walk(ctx, children, target); err != nil {
		return err
	}
	if err := containerd.NewImage(client, images.Image{Name: c.Reference(), Target: target}).Unpack(ctx, ""); err != nil {
		return err
	}
	// The names come last: what has one is complete.
	for _, name := range []string{c.InstalledReference(), c.Reference()} {
		if err := nameImage(ctx, client.ImageService(), name, target); err != nil {
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

// loadBlob writes content, of which containerd checks the digest once more.
func (i *Installed) loadBlob(ctx context.Context, to content.Store, d v1.Descriptor) error {
	f, err := os.Open(i.blobs.path(string(d.Digest)))
	if err != nil {
		return err
	}
	defer f.Close()
	return content.WriteBlob(ctx, to, "constellation-"+oci.Hex(string(d.Digest)), f, d)
}

func nameImage(ctx context.Context, service images.Store, name string, target v1.Descriptor) error {
	image := images.Image{Name: name, Target: target, Labels: map[string]string{pinnedLabel: pinned}}
	_, err := service.Update(ctx, image, "target", "labels."+pinnedLabel)
	if errdefs.IsNotFound(err) {
		_, err = service.Create(ctx, image)
	}
	return err
}
