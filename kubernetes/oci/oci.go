// SPDX-License-Identifier: Apache-2.0

// Package oci reads container images as the OCI Image Format Specification 1.1 has
// them, as far as a node's components need it: one manifest for linux/amd64, a
// configuration, and layers.
//
// Callers hand in a manifest or a layer whose digest they have checked, or will.
// The readers bound what they read all the same, and say what they refuse.
//
// Not supported, and refused: indexes of several platforms, foreign layers, and
// whiteouts, none of which the images of a bundle have.
package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// MaxLayers is the most layers of an image.
const MaxLayers = 64

// MaxConfig is the most bytes of an image's configuration.
const MaxConfig = 1 << 20

// Errors of ParseManifest. Others are package strictjson's.
var (
	ErrTooLarge  = errors.New("too large")
	ErrMediaType = errors.New("media type is not supported")
	ErrDigest    = errors.New("not a SHA-256 digest")
	ErrSize      = errors.New("not a size")
)

// Manifest is an image's manifest. Its descriptors are sound: of known media types,
// SHA-256 digests and bounded sizes.
type Manifest struct{ v1.Manifest }

// ParseManifest reads an image's manifest.
func ParseManifest(data []byte) (*Manifest, error) {
	m := &Manifest{}
	if len(data) > componentset.MaxManifest {
		return nil, fmt.Errorf("manifest: %w: %d bytes, at most %d", ErrTooLarge, len(data), componentset.MaxManifest)
	}
	if err := strictjson.Decode(data, &m.Manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func (m *Manifest) check() error {
	if m.SchemaVersion != 2 || m.MediaType != v1.MediaTypeImageManifest {
		return fmt.Errorf("%w: want schema version 2 and %s", ErrMediaType, v1.MediaTypeImageManifest)
	}
	if m.Config.MediaType != v1.MediaTypeImageConfig {
		return fmt.Errorf("configuration: %w: want %s", ErrMediaType, v1.MediaTypeImageConfig)
	}
	if err := checkDescriptor(m.Config, MaxConfig); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if len(m.Layers) > MaxLayers {
		return fmt.Errorf("%w: %d layers, at most %d", ErrTooLarge, len(m.Layers), MaxLayers)
	}
	for i, layer := range m.Layers {
		if err := checkLayer(layer); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

func checkLayer(layer v1.Descriptor) error {
	switch layer.MediaType {
	case v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd:
		return checkDescriptor(layer, componentset.MaxFile)
	}
	return ErrMediaType
}

func checkDescriptor(d v1.Descriptor, limit int64) error {
	switch {
	case !componentset.IsDigest(string(d.Digest)):
		return ErrDigest
	case d.Size < 1 || d.Size > limit:
		return fmt.Errorf("%w: want 1 to %d bytes", ErrSize, limit)
	}
	return nil
}

// Blobs are the image's configuration and layers.
func (m *Manifest) Blobs() []v1.Descriptor {
	return append([]v1.Descriptor{m.Config}, m.Layers...)
}

// Digest is that of some bytes, as OCI writes it.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Hex is a digest without the name of its algorithm.
func Hex(digest string) string { return digest[len("sha256:"):] }
