// SPDX-License-Identifier: Apache-2.0

// Package reference checks how container images are named. An image that runs in a
// cluster is named by its digest: a tag is somebody's word, which can change.
package reference

import (
	"fmt"
	"regexp"
)

// maxLength is that of a repository's name in the distribution specification, with
// a registry's and a digest.
const maxLength = 512

var (
	repository = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+$`)
	digest     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	pinned     = regexp.MustCompile(`^(.*)@(.*)$`)
)

// Pinned refuses every image that is not named as REGISTRY/NAME@sha256:DIGEST.
// A tag beside the digest is refused too: runtimes ignore it, and readers do not.
func Pinned(image string) error {
	parts := pinned.FindStringSubmatch(image)
	switch {
	case image == "":
		return fmt.Errorf("no image is named")
	case len(image) > maxLength:
		return fmt.Errorf("an image's name of %d bytes, at most %d are possible", len(image), maxLength)
	case parts == nil:
		return fmt.Errorf("image %q is not named by its digest, as NAME@sha256:DIGEST", image)
	case !digest.MatchString(parts[2]):
		return fmt.Errorf("image %q: %q is no SHA-256 digest", image, parts[2])
	case !repository.MatchString(parts[1]):
		return fmt.Errorf("image %q: %q is no REGISTRY/NAME", image, parts[1])
	}
	return nil
}
