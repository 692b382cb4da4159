// SPDX-License-Identifier: Apache-2.0

// Command mkmanifest writes the manifest of an image; the arguments are its artifacts.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/constellation-os/constellation/image/manifest"
	"github.com/constellation-os/constellation/image/verity"
)

func main() {
	lock := flag.String("lock", "", "the lock of the Debian packages")
	root := flag.String("root", "", "the JSON description of the root that mkverity wrote")
	uki := flag.String("uki", "", "the unified kernel image")
	out := flag.String("out", "", "the manifest to write")
	flag.Parse()
	if err := run(*lock, *root, *uki, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkmanifest:", err)
		os.Exit(1)
	}
}

func run(lock, root, uki, out string, artifacts []string) error {
	var m manifest.Manifest
	locked, err := os.ReadFile(lock)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(locked)
	m.PackageLock = hex.EncodeToString(digest[:])
	description, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	hash, _, err := verity.ParseRoot(description)
	if err != nil {
		return err
	}
	m.RootHash = hash.String()
	image, err := os.Open(uki)
	if err != nil {
		return err
	}
	defer image.Close()
	if err := m.ReadUKI(image); err != nil {
		return fmt.Errorf("%s: %w", uki, err)
	}
	for _, name := range artifacts {
		if err := add(&m, name); err != nil {
			return err
		}
	}
	encoded, err := m.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(out, encoded, 0o644)
}

func add(m *manifest.Manifest, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return m.Add(filepath.Base(name), file)
}
