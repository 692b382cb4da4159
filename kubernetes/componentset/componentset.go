// SPDX-License-Identifier: Apache-2.0

// Package componentset names what a node needs to be part of a Kubernetes cluster:
// container images and programs, each by the digest of its content.
//
// A set is trusted as far as whoever handed it over: the administrator sends it
// over the attested channel. Everything that is fetched by it is checked against
// it, so that no source of components has to be trusted (docs/components.md).
//
// A set has exactly one encoding, and Parse accepts no other: the digest of a set
// is that of its file, and whoever compares digests has compared sets.
//
// Not guaranteed: that anything of a set can be had, or works.
package componentset

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Format is the only value of Set.Format.
const Format = "constellation.components/v1"

// Kinds of components.
const (
	// KindImage is a container image; Digest and Size are those of its OCI manifest.
	KindImage = "image"
	// KindProgram is a file of an image; Digest and Size are those of its bytes.
	KindProgram = "program"
)

// Limits of a set.
const (
	// MaxEncoding is the most bytes of an encoded set.
	MaxEncoding = 1 << 20
	// MaxComponents is the most components of a set.
	MaxComponents = 256
	// MaxManifest is the most bytes of an image's manifest.
	MaxManifest = 1 << 20
	// MaxFile is the most bytes of a program or of one blob of an image.
	MaxFile = 2 << 30
	// MaxText is the most bytes of a name, a version or a path.
	MaxText = 128
)

// Registry is the host in the references of images. It stands for no machine:
// nodes import images before anything refers to them, and nobody can pull from it.
const Registry = "constellation.local"

// Errors of Parse. Others are package strictjson's.
var (
	ErrTooLarge  = errors.New("too large")
	ErrFormat    = fmt.Errorf("the format is not %s", Format)
	ErrCanonical = errors.New("not the canonical encoding")
	ErrVersion   = errors.New("not a version")
	ErrEmpty     = errors.New("no components")
	ErrName      = errors.New("not a name")
	ErrOrder     = errors.New("components are not in the order of their names, each once")
	ErrKind      = errors.New("unknown kind")
	ErrDigest    = errors.New("not a SHA-256 digest")
	ErrSize      = errors.New("not a size")
	ErrPath      = errors.New("not a clean path below the root")
	ErrImage     = errors.New("the program's image is not in the set")
	ErrSurplus   = errors.New("a field that is none of the kind's")
	ErrConflict  = errors.New("two programs at one path")
)

// Set is a version of everything that a node needs.
type Set struct {
	Format string `json:"format"`
	// Kubernetes is the version of Kubernetes, such as v1.37.2.
	Kubernetes string `json:"kubernetes"`
	// Components are in the order of their names.
	Components []Component `json:"components"`
}

// Component is an image or a program.
type Component struct {
	// Name is unique in the set. An image's is that of its repository in a registry, too.
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
	// Digest is "sha256:" and 64 lower-case hexadecimal digits.
	Digest string `json:"digest"`
	// Size in bytes of what Digest is of.
	Size int64 `json:"size"`

	// Image is the name of the image that a program is a file of.
	Image string `json:"image,omitempty"`
	// Path is where the program is in the image, such as usr/bin/kubernetes.
	Path string `json:"path,omitempty"`
	// InstallPath is where a node has the program, such as bin/kubelet.
	InstallPath string `json:"install_path,omitempty"`
}

// New makes a set of components in any order.
func New(kubernetes string, components []Component) (*Set, error) {
	s := &Set{Format: Format, Kubernetes: kubernetes, Components: slices.Clone(components)}
	slices.SortFunc(s.Components, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	return s, s.check()
}

// Parse reads an encoded set.
func Parse(data []byte) (*Set, error) {
	if len(data) > MaxEncoding {
		return nil, fmt.Errorf("component set: %w: %d bytes, at most %d", ErrTooLarge, len(data), MaxEncoding)
	}
	s := &Set{}
	if err := strictjson.Decode(data, s); err != nil {
		return nil, fmt.Errorf("component set: %w", err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("component set: %w", err)
	}
	if !bytes.Equal(s.Encode(), data) {
		return nil, fmt.Errorf("component set: %w: want fields in their order, two spaces of indentation and a line feed at the end", ErrCanonical)
	}
	return s, nil
}

// Encode is the set's canonical encoding.
func (s *Set) Encode() []byte {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // strings and integers alone
	}
	return append(data, '\n')
}

// Digest is that of the canonical encoding, "sha256:" and 64 hexadecimal digits.
func (s *Set) Digest() string {
	sum := sha256.Sum256(s.Encode())
	return digestPrefix + hex.EncodeToString(sum[:])
}

// Image is the image of a name.
func (s *Set) Image(name string) (Component, bool) { return s.find(KindImage, name) }

// Program is the program of a name.
func (s *Set) Program(name string) (Component, bool) { return s.find(KindProgram, name) }

func (s *Set) find(kind, name string) (Component, bool) {
	for _, c := range s.Components {
		if c.Kind == kind && c.Name == name {
			return c, true
		}
	}
	return Component{}, false
}

// Images are the set's images.
func (s *Set) Images() []Component { return s.of(KindImage) }

// Programs are the set's programs.
func (s *Set) Programs() []Component { return s.of(KindProgram) }

func (s *Set) of(kind string) []Component {
	var out []Component
	for _, c := range s.Components {
		if c.Kind == kind {
			out = append(out, c)
		}
	}
	return out
}

// References are the references of all images by their names, as pods use them.
func (s *Set) References() map[string]string {
	out := map[string]string{}
	for _, c := range s.Images() {
		out[c.Name] = c.Reference()
	}
	return out
}

// Reference is what an image is called in a node's container runtime: it names
// the content, and whoever pulled it would get that or nothing.
func (c Component) Reference() string { return Registry + "/" + c.Name + "@" + c.Digest }

// InstalledReference is a second name of the image in the container runtime, for
// configuration that is older than the set: the image of this name in the set that
// the node has installed.
func (c Component) InstalledReference() string { return Registry + "/" + c.Name + ":installed" }
