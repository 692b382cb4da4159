// SPDX-License-Identifier: Apache-2.0

// Command mkrootfs composes the root of the image, see package rootfs.
//
// Its inputs are listed in one JSON file, see type rootfs.Inputs.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/constellation-os/constellation/image/kernelmodule"
	"github.com/constellation-os/constellation/image/rootfs"
)

func main() {
	list := flag.String("inputs", "", "JSON file that lists the inputs")
	out := flag.String("out", "", "the tar archive to write")
	files := flag.String("files", "", "JSON file to write that describes each file of the root")
	executables := flag.String("executables", "", "file to write that lists the executables")
	flag.Parse()
	if err := run(*list, *out, *files, *executables); err != nil {
		fmt.Fprintln(os.Stderr, "mkrootfs:", err)
		os.Exit(1)
	}
}

func run(list, out, files, executables string) error {
	raw, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var in rootfs.Inputs
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	tree, err := compose(in)
	if err != nil {
		return err
	}
	if err := writeLists(tree, in, files, executables); err != nil {
		return err
	}
	archive, err := os.Create(out)
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := tree.WriteTar(archive, time.Unix(0, 0)); err != nil {
		return err
	}
	return archive.Close()
}

func compose(in rootfs.Inputs) (rootfs.Tree, error) {
	selections, err := readAll(in.Selections)
	if err != nil {
		return nil, err
	}
	selection, err := rootfs.ParseSelection(selections...)
	if err != nil {
		return nil, err
	}
	builder := rootfs.NewBuilder(selection)
	for _, p := range in.Packages {
		if err := withFile(p, func(f *os.File) error { return builder.AddPackage(packageName(p), f) }); err != nil {
			return nil, err
		}
	}
	if err := builder.Finish(); err != nil {
		return nil, err
	}
	modules, err := readAll(in.Modules)
	if err != nil {
		return nil, err
	}
	if err := withFile(in.KernelPackage, func(f *os.File) error {
		return builder.AddModules(packageName(in.KernelPackage), f, kernelmodule.ParseList(strings.Join(modules, "\n")))
	}); err != nil {
		return nil, err
	}
	for _, f := range in.Files {
		content, err := os.ReadFile(f.Source)
		if err != nil {
			return nil, err
		}
		if err := builder.Tree.AddOwn(f.Path, f.Mode, content, f.Origin); err != nil {
			return nil, err
		}
	}
	if err := builder.AddLibraries(); err != nil {
		return nil, err
	}
	declarations, err := readAll(in.Declarations)
	if err != nil {
		return nil, err
	}
	for i, declaration := range declarations {
		if err := builder.Tree.Declare(declaration); err != nil {
			return nil, fmt.Errorf("%s: %w", in.Declarations[i], err)
		}
	}
	return builder.Tree, builder.Tree.AddCaches(in.Ldconfig, in.Depmod)
}

// writeLists writes what the root consists of and then refuses a root that breaks the image's promises, so that the
// lists are there to look at.
func writeLists(tree rootfs.Tree, in rootfs.Inputs, files, executables string) error {
	description, err := json.MarshalIndent(tree.Files(), "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(files, append(description, '\n'), 0o644); err != nil {
		return err
	}
	list := tree.Executables()
	if err := os.WriteFile(executables, []byte(strings.Join(list, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if problems := tree.Problems(in.Debug); len(problems) > 0 {
		return fmt.Errorf("the root has what it must not have:\n  %s", strings.Join(problems, "\n  "))
	}
	golden, err := os.ReadFile(in.Executables)
	if err != nil {
		return err
	}
	if difference := rootfs.CompareExecutables(string(golden), list); difference != "" {
		return fmt.Errorf("the executables of the root are not those of %s:\n%sIf this is meant, put the + lines in and take the - lines out",
			in.GoldenName, difference)
	}
	return nil
}

// packageName returns the package's name from the name of its file, which is NAME_VERSION_ARCHITECTURE.deb or NAME.deb.
func packageName(p string) string {
	name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(p), ".deb"), "_")
	return name
}

func readAll(paths []string) ([]string, error) {
	var texts []string
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}

func withFile(p string, do func(*os.File) error) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := do(f); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}
