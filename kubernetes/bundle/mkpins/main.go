// SPDX-License-Identifier: Apache-2.0

// Command mkpins writes the digests that images will have in a bundle, without
// making one:
//
//	mkpins -images FILE -out FILE
//
// The node's image names those of our own services, so that measurements cover what
// they are (docs/components.md).
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

func main() {
	list := flag.String("images", "", "JSON file with a list of bundle.ImageContent")
	out := flag.String("out", "", "file to write")
	flag.Parse()
	if err := run(*list, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkpins:", err)
		os.Exit(1)
	}
}

func run(list, out string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var images []bundle.ImageContent
	if err := strictjson.Decode(data, &images); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	pins, err := bundle.Pins(images)
	if err != nil {
		return err
	}
	return os.WriteFile(out, pins.Encode(), 0o644)
}
