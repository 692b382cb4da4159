// SPDX-License-Identifier: Apache-2.0

// Command mksbom writes what an image is made of.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/constellation-os/constellation/image/packages/lock"
	"github.com/constellation-os/constellation/image/rootfs"
	"github.com/constellation-os/constellation/image/sbom"
)

func main() {
	lockPath := flag.String("lock", "", "the lock of the Debian packages")
	inputs := flag.String("inputs", "", "the JSON list of the root's inputs")
	init := flag.String("init", "", "the initrd's program")
	files := flag.String("files", "", "the JSON description of the root's files")
	name := flag.String("name", "", "the document's name")
	out := flag.String("out", "", "the document to write")
	flag.Parse()
	if err := run(*lockPath, *inputs, *init, *files, *name, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mksbom:", err)
		os.Exit(1)
	}
}

func run(lockPath, inputsPath, initPath, filesPath, name, out string) error {
	locked, err := lock.ReadFile(lockPath)
	if err != nil {
		return err
	}
	var files []rootfs.FileInfo
	if err := readJSON(filesPath, &files); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, file := range files {
		if file.Type == "file" {
			used[file.Origin] = true
		}
	}
	for _, p := range locked.Packages {
		if p.Name == "systemd-boot-efi" || strings.HasPrefix(p.Name, "linux-image-") {
			used[p.Name] = true // in the unified kernel image
		}
	}
	var inputs rootfs.Inputs
	if err := readJSON(inputsPath, &inputs); err != nil {
		return err
	}
	first, err := os.ReadFile(initPath)
	if err != nil {
		return err
	}
	programs := []sbom.Program{{Path: "/init", Origin: "image/initrd/init", Content: first}}
	for _, file := range inputs.Files {
		if file.Mode&0o111 == 0 {
			continue
		}
		content, err := os.ReadFile(file.Source)
		if err != nil {
			return err
		}
		programs = append(programs, sbom.Program{Path: "/" + file.Path, Origin: file.Origin, Content: content})
	}
	document, err := sbom.Write(name, locked, used, programs)
	if err != nil {
		return err
	}
	return os.WriteFile(out, document, 0o644)
}

func readJSON(path string, value any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
