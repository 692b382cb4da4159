// SPDX-License-Identifier: Apache-2.0

package componentset

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Pins are digests of images that a node's own image names: of the services that were
// built with it. A set with others is not for that node, whoever sends it.
type Pins map[string]string

// Errors of ParsePins and Check.
var (
	ErrPins   = errors.New("not lines of a name and a digest, in the order of their names, each once")
	ErrPinned = errors.New("not the image that this node's own image was built with")
)

// ParsePins reads lines of a name and a digest. There is at least one.
func ParsePins(data []byte) (Pins, error) {
	pins := Pins{}
	last := ""
	for line := range strings.Lines(string(data)) {
		name, digest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !strings.HasSuffix(line, "\n") || !IsName(name) || !IsDigest(digest) || name <= last {
			return nil, fmt.Errorf("pins: %w", ErrPins)
		}
		pins[name], last = digest, name
	}
	if len(pins) == 0 {
		return nil, fmt.Errorf("pins: %w", ErrEmpty)
	}
	return pins, nil
}

// Encode is what ParsePins reads.
func (p Pins) Encode() []byte {
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(p)) {
		out = fmt.Appendf(out, "%s %s\n", name, p[name])
	}
	return out
}

// Check refuses a set that lacks a pinned image, or has another.
func (p Pins) Check(s *Set) error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		image, ok := s.Image(name)
		switch {
		case !ok:
			return fmt.Errorf("it has no image %s", name)
		case image.Digest != p[name]:
			return fmt.Errorf("image %s is %s, and %w: that is %s", name, image.Digest, ErrPinned, p[name])
		}
	}
	return nil
}
