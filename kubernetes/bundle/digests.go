// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// Pins are the digests that images will have in any bundle which Create makes with them.
func Pins(images []ImageContent) (componentset.Pins, error) {
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &Bundle{dir: dir}
	if err := os.MkdirAll(filepath.Dir(b.blobPath(oci.Digest(nil))), 0o755); err != nil {
		return nil, err
	}
	pins := componentset.Pins{}
	for _, content := range images {
		d, _, err := b.createImage(content)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", content.Name, err)
		}
		pins[content.Name] = string(d.Digest)
	}
	return pins, nil
}
