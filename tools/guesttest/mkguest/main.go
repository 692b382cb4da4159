// SPDX-License-Identifier: Apache-2.0

// Command mkguest makes what is the same for all runs of a guest test: the kernel, and an archive with the first
// program, kernel modules, and programs of Debian packages with the libraries that they need.
package main

import (
	"archive/tar"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/constellation-os/constellation/image/initrd"
	"github.com/constellation-os/constellation/image/initrd/cpio"
	"github.com/constellation-os/constellation/image/kernelmodule"
	"github.com/constellation-os/constellation/image/rootfs"
	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

type inputs struct {
	init, kernelPackage, modules, programs string
	kernel, tpmKernel, archive             string
	packages                               []string
}

func main() {
	var in inputs
	flag.StringVar(&in.init, "init", "", "the guest's first program")
	flag.StringVar(&in.kernelPackage, "kernel-package", "", "the .deb that holds the kernel and its modules")
	flag.StringVar(&in.modules, "modules", "", "modules to load, separated by commas")
	flag.StringVar(&in.programs, "programs", "", "paths of files in the packages, as package:path, separated by commas")
	flag.StringVar(&in.kernel, "kernel", "", "the kernel to write, as an ELF file")
	flag.StringVar(&in.tpmKernel, "tpm-kernel", "", "the kernel to write for guests with a TPM, as a bootable image")
	flag.StringVar(&in.archive, "archive", "", "the archive to write")
	flag.Parse()
	in.packages = flag.Args()
	if err := run(in); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		os.Exit(1)
	}
}

func run(in inputs) error {
	file, err := os.Open(in.kernelPackage)
	if err != nil {
		return err
	}
	defer file.Close()
	kernel, err := initrd.ReadKernel(file)
	if err != nil {
		return fmt.Errorf("%s: %w", in.kernelPackage, err)
	}
	vmlinux, err := decompress(kernel.Image)
	if err != nil {
		return fmt.Errorf("%s: %w", in.kernelPackage, err)
	}
	if err := os.WriteFile(in.kernel, vmlinux, 0o644); err != nil {
		return err
	}
	image, err := lowerInitrd(kernel.Image)
	if err != nil {
		return fmt.Errorf("%s: %w", in.kernelPackage, err)
	}
	if err := os.WriteFile(in.tpmKernel, image, 0o644); err != nil {
		return err
	}
	modules, err := kernel.Modules(kernelmodule.ParseList(strings.ReplaceAll(in.modules, ",", "\n")))
	if err != nil {
		return err
	}
	first, err := os.ReadFile(in.init)
	if err != nil {
		return err
	}
	tree, err := collect(in.packages, in.programs)
	if err != nil {
		return err
	}
	if err := compose(tree, first, modules); err != nil {
		return err
	}
	archive, err := cpio.Write(entries(tree))
	if err != nil {
		return err
	}
	return os.WriteFile(in.archive, archive, 0o644)
}

// collect takes the programs and their libraries out of the packages.
func collect(packages []string, programs string) (rootfs.Tree, error) {
	var selection strings.Builder
	for program := range strings.SplitSeq(programs, ",") {
		if program == "" {
			continue
		}
		name, file, ok := strings.Cut(program, ":")
		if !ok {
			return nil, fmt.Errorf("%q is not package:path", program)
		}
		fmt.Fprintf(&selection, "[%s]\n%s\n", name, file)
	}
	chosen, err := rootfs.ParseSelection(selection.String())
	if err != nil {
		return nil, err
	}
	builder := rootfs.NewBuilder(chosen)
	for _, p := range packages {
		file, err := os.Open(p)
		if err != nil {
			return nil, err
		}
		err = builder.AddPackage(strings.TrimSuffix(filepath.Base(p), ".deb"), file)
		file.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := builder.Finish(); err != nil {
		return nil, err
	}
	return builder.Tree, builder.AddLibraries()
}

// compose adds what is not out of packages.
func compose(tree rootfs.Tree, first []byte, modules []kernelmodule.Module) error {
	add := func(file string, node rootfs.Node) error {
		node.Origin = "tools/guesttest"
		return tree.Add(file, &node)
	}
	for _, folder := range []string{"dev", "proc", "sys", "tmp", "run", "mnt", "usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu"} {
		if err := add(folder, rootfs.Node{Type: tar.TypeDir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib/x86_64-linux-gnu",
		"etc/mtab": "../proc/self/mounts",
	} {
		if err := add(link, rootfs.Node{Type: tar.TypeSymlink, Target: target}); err != nil {
			return err
		}
	}
	if err := add("init", rootfs.Node{Type: tar.TypeReg, Mode: 0o755, Content: first}); err != nil {
		return err
	}
	var list strings.Builder
	for _, module := range modules {
		name := path.Base(module.Path)
		list.WriteString(name + "\n")
		if err := add(path.Join(wire.ModuleDirectory, name), rootfs.Node{Type: tar.TypeReg, Mode: 0o644, Content: module.Content}); err != nil {
			return err
		}
	}
	return add(wire.Modules, rootfs.Node{Type: tar.TypeReg, Mode: 0o644, Content: []byte(list.String())})
}

func entries(tree rootfs.Tree) []cpio.Entry {
	var all []cpio.Entry
	for _, file := range tree.Paths() {
		node := tree[file]
		entry := cpio.Entry{Path: file, Mode: uint32(node.Mode & 0o777), Content: node.Content}
		switch node.Type {
		case tar.TypeDir:
			entry.Mode |= cpio.Directory
		case tar.TypeSymlink:
			entry.Mode, entry.Content = cpio.Link|0o777, []byte(node.Target)
		default:
			entry.Mode |= cpio.Regular
		}
		all = append(all, entry)
	}
	return all
}
