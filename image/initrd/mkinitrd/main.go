// SPDX-License-Identifier: Apache-2.0

// Command mkinitrd writes the initrd from the program init and the kernel package's modules.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/constellation-os/constellation/image/initrd"
	"github.com/constellation-os/constellation/image/kernelmodule"
)

func main() {
	init := flag.String("init", "", "the program that becomes /init")
	kernel := flag.String("kernel-package", "", "the .deb that holds the kernel and its modules")
	modules := flag.String("modules", "", "file with the names of the modules to load, # begins a comment")
	out := flag.String("out", "", "the initrd to write")
	parts := flag.String("parts", "", "JSON file to write that says what each file of the initrd weighs")
	flag.Parse()
	if err := run(*init, *kernel, *modules, *out, *parts); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

func run(initPath, kernelPath, modulesPath, out, partsPath string) error {
	init, err := os.ReadFile(initPath)
	if err != nil {
		return err
	}
	list, err := os.ReadFile(modulesPath)
	if err != nil {
		return err
	}
	kernel, err := os.Open(kernelPath)
	if err != nil {
		return err
	}
	defer kernel.Close()
	contents, err := initrd.ReadKernel(kernel)
	if err != nil {
		return fmt.Errorf("%s: %w", kernelPath, err)
	}
	modules, err := contents.Modules(kernelmodule.ParseList(string(list)))
	if err != nil {
		return err
	}
	archive, parts, err := initrd.Build(init, modules)
	if err != nil {
		return err
	}
	table, err := json.MarshalIndent(parts, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(partsPath, append(table, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out, archive, 0o644)
}
