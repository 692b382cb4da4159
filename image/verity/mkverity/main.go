// SPDX-License-Identifier: Apache-2.0

// Command mkverity writes the hash tree of a root file system and its root hash.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/constellation-os/constellation/image/verity"
)

func main() {
	root := flag.String("root", "", "the root file system")
	tree := flag.String("tree", "", "the hash tree to write")
	description := flag.String("description", "", "JSON file to write with root hash and number of blocks")
	flag.Parse()
	if err := run(*root, *tree, *description); err != nil {
		fmt.Fprintln(os.Stderr, "mkverity:", err)
		os.Exit(1)
	}
}

func run(rootPath, treePath, descriptionPath string) error {
	root, err := os.Open(rootPath)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, hash, blocks, err := verity.Build(bufio.NewReaderSize(root, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", rootPath, err)
	}
	description, err := json.Marshal(verity.Root{Hash: hash.String(), Blocks: blocks})
	if err != nil {
		return err
	}
	if err := os.WriteFile(descriptionPath, append(description, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(treePath, tree, 0o644)
}
