// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"errors"
	"strings"
)

// Image is what os-release says of the image that a node booted. The file is in the
// measured root, so it is true of whatever the measurements are of.
type Image struct {
	Name, Version, Flavour string
}

// ParseOSRelease reads the fields of an image from an os-release file (os-release(5)).
func ParseOSRelease(data []byte) (Image, error) {
	var i Image
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); key {
		case "IMAGE_ID":
			i.Name = value
		case "IMAGE_VERSION":
			i.Version = value
		case "VARIANT_ID":
			i.Flavour = value
		}
	}
	if i.Name == "" || i.Version == "" || i.Flavour == "" {
		return Image{}, errors.New("bootstrapper: os-release names no IMAGE_ID, IMAGE_VERSION or VARIANT_ID: this is not a Constellation image")
	}
	return i, nil
}
