// SPDX-License-Identifier: Apache-2.0

// Command mkdisk writes the bootable disk from its parts.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/constellation-os/constellation/image/disk"
	"github.com/constellation-os/constellation/image/verity"
)

func main() {
	uki := flag.String("uki", "", "the unified kernel image")
	root := flag.String("root", "", "the root file system")
	tree := flag.String("tree", "", "its hash tree")
	description := flag.String("description", "", "the JSON description of the root that mkverity wrote")
	out := flag.String("out", "", "the disk to write")
	flag.Parse()
	if err := run(*uki, *root, *tree, *description, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkdisk:", err)
		os.Exit(1)
	}
}

func run(uki, root, tree, description, out string) error {
	var contents disk.Contents
	var raw []byte
	for _, input := range []struct {
		path string
		to   *[]byte
	}{{uki, &contents.UKI}, {root, &contents.Root}, {tree, &contents.Tree}, {description, &raw}} {
		var err error
		if *input.to, err = os.ReadFile(input.path); err != nil {
			return err
		}
	}
	var err error
	if contents.Hash, _, err = verity.ParseRoot(raw); err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := disk.Write(file, contents)
	if err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Close()
}
