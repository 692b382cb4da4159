// SPDX-License-Identifier: Apache-2.0

// Command mkuki assembles the unified kernel image from the stub's package, the kernel's package and the initrd.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/constellation-os/constellation/image/deb"
	"github.com/constellation-os/constellation/image/uki"
	"github.com/constellation-os/constellation/image/verity"
)

const stubName = "linuxx64.efi.stub"

func main() {
	stub := flag.String("stub-package", "", "the .deb that holds systemd's UEFI stub")
	kernel := flag.String("kernel-package", "", "the .deb that holds the kernel")
	initrd := flag.String("initrd", "", "the initrd")
	commandLine := flag.String("cmdline", "", "files, separated by commas, that hold the kernel command line without the root's parameters; # begins a comment")
	root := flag.String("root", "", "the JSON description of the root that mkverity wrote")
	osRelease := flag.String("os-release", "", "file that holds the os-release")
	out := flag.String("out", "", "the image to write")
	flag.Parse()
	if err := run(*stub, *kernel, *initrd, *commandLine, *root, *osRelease, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkuki:", err)
		os.Exit(1)
	}
}

func run(stub, kernel, initrd, commandLine, root, osRelease, out string) error {
	var contents uki.Contents
	stubFile, err := one(stub, func(p string) bool { return path.Base(p) == stubName })
	if err != nil {
		return err
	}
	contents.Stub = stubFile.Content
	kernelFile, err := one(kernel, func(p string) bool { return strings.HasPrefix(p, "boot/vmlinuz-") })
	if err != nil {
		return err
	}
	contents.Kernel = kernelFile.Content
	contents.Release = strings.TrimPrefix(kernelFile.Path, "boot/vmlinuz-")
	if contents.Initrd, err = os.ReadFile(initrd); err != nil {
		return err
	}
	var words []string
	for name := range strings.SplitSeq(commandLine, ",") {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		words = append(words, uki.CommandLine(string(text)))
	}
	description, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	hash, blocks, err := verity.ParseRoot(description)
	if err != nil {
		return err
	}
	contents.CommandLine = fmt.Sprintf("%s=%s %s=%d %s", verity.HashParameter, hash, verity.BlocksParameter, blocks, strings.Join(words, " "))
	if contents.OSRelease, err = os.ReadFile(osRelease); err != nil {
		return err
	}
	image, err := uki.Assemble(contents)
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

// one returns the only file of a package that is wanted.
func one(packagePath string, wanted func(string) bool) (deb.File, error) {
	file, err := os.Open(packagePath)
	if err != nil {
		return deb.File{}, err
	}
	defer file.Close()
	var found []deb.File
	if err := deb.Read(file, wanted, func(f deb.File) error {
		found = append(found, f)
		return nil
	}); err != nil {
		return deb.File{}, fmt.Errorf("%s: %w", packagePath, err)
	}
	if len(found) != 1 {
		return deb.File{}, fmt.Errorf("%s: %d files match, not one", packagePath, len(found))
	}
	return found[0], nil
}
