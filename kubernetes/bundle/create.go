// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// Contents are what Create makes a bundle of. Its JSON is what mkbundle reads.
type Contents struct {
	// Kubernetes is the set's version.
	Kubernetes string           `json:"kubernetes"`
	Images     []ImageContent   `json:"images"`
	Programs   []ProgramContent `json:"programs"`
}

// ImageContent is an image to be made.
type ImageContent struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Layers are files of tar archives, compressed by zstd, the lowest first.
	Layers     []string `json:"layers"`
	Entrypoint []string `json:"entrypoint"`
	Env        []string `json:"env"`
	// User is UID:GID.
	User string `json:"user"`
}

// ProgramContent is a file of an image that nodes run.
type ProgramContent struct {
	Name        string `json:"name"`
	Image       string `json:"image"`
	Path        string `json:"path"`
	InstallPath string `json:"install_path"`
}

// Create makes a bundle in a folder, which it makes. The same contents make the same
// bundle, at any time and anywhere.
func Create(dir string, c Contents) (*Bundle, error) {
	b := &Bundle{dir: dir}
	if err := os.MkdirAll(filepath.Dir(b.blobPath(oci.Digest(nil))), 0o755); err != nil {
		return nil, err
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	var components []componentset.Component
	manifests := map[string]*oci.Manifest{}
	versions := map[string]string{}
	for _, content := range c.Images {
		d, m, err := b.createImage(content)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", content.Name, err)
		}
		// By this name other tools find the image in the layout.
		d.Annotations = map[string]string{v1.AnnotationRefName: content.Name}
		index.Manifests = append(index.Manifests, d)
		manifests[content.Name], versions[content.Name] = m, content.Version
		components = append(components, componentset.Component{
			Name: content.Name, Kind: componentset.KindImage, Version: content.Version, Digest: string(d.Digest), Size: d.Size,
		})
	}
	for _, content := range c.Programs {
		program := componentset.Component{
			Name: content.Name, Kind: componentset.KindProgram, Version: versions[content.Image],
			Image: content.Image, Path: content.Path, InstallPath: content.InstallPath,
		}
		if err := b.measureProgram(&program, manifests[content.Image]); err != nil {
			return nil, fmt.Errorf("program %s: %w", content.Name, err)
		}
		components = append(components, program)
	}
	set, err := componentset.New(c.Kubernetes, components)
	if err != nil {
		return nil, err
	}
	if err := b.finish(index, set); err != nil {
		return nil, err
	}
	return Open(dir)
}

func (b *Bundle) finish(index v1.Index, set *componentset.Set) error {
	layout, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	list, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{v1.ImageLayoutFile: layout, v1.ImageIndexFile: append(list, '\n'), SetFile: set.Encode()} {
		if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bundle) createImage(c ImageContent) (v1.Descriptor, *oci.Manifest, error) {
	fail := func(err error) (v1.Descriptor, *oci.Manifest, error) { return v1.Descriptor{}, nil, err }
	epoch := time.Unix(0, 0).UTC()
	config := v1.Image{
		Created:  &epoch,
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		Config:   v1.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	for _, path := range c.Layers {
		layer, diffID, err := b.addLayer(path)
		if err != nil {
			return fail(err)
		}
		manifest.Layers = append(manifest.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	var err error
	if manifest.Config, err = b.addJSON(v1.MediaTypeImageConfig, config); err != nil {
		return fail(err)
	}
	d, err := b.addJSON(v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return fail(err)
	}
	data, err := os.ReadFile(b.blobPath(string(d.Digest)))
	if err != nil {
		return fail(err)
	}
	m, err := oci.ParseManifest(data)
	return d, m, err
}

// addLayer copies a layer, and finds the digest of its archive.
func (b *Bundle) addLayer(path string) (v1.Descriptor, digest.Digest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	defer z.Close()
	archive := sha256.New()
	if _, err := io.Copy(archive, z); err != nil {
		return v1.Descriptor{}, "", fmt.Errorf("%s: %w", path, err)
	}
	d, err := b.addBlob(v1.MediaTypeImageLayerZstd, data)
	return d, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(archive.Sum(nil))), err
}

func (b *Bundle) addJSON(mediaType string, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return b.addBlob(mediaType, data)
}

func (b *Bundle) addBlob(mediaType string, data []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(oci.Digest(data)), Size: int64(len(data))}
	return d, os.WriteFile(b.blobPath(string(d.Digest)), data, 0o644)
}

// measureProgram finds the digest and size of a program in its image.
func (b *Bundle) measureProgram(c *componentset.Component, image *oci.Manifest) error {
	if image == nil {
		return errors.New("no such image")
	}
	open := func(layer v1.Descriptor) (io.ReadCloser, error) { return os.Open(b.blobPath(string(layer.Digest))) }
	return image.Files([]string{c.Path}, open, func(_ string, content io.Reader) error {
		sum := sha256.New()
		n, err := io.Copy(sum, content)
		c.Digest, c.Size = "sha256:"+hex.EncodeToString(sum.Sum(nil)), n
		return err
	})
}
