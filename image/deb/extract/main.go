// SPDX-License-Identifier: Apache-2.0

// Command extract writes single files of a Debian package.
package main

import (
	"archive/tar"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/constellation-os/constellation/image/deb"
)

func main() {
	pkg := flag.String("package", "", "the .deb")
	files := map[string]string{}
	flag.Func("file", "PATH=OUT, the file at PATH of the package is written to OUT; may be repeated", func(value string) error {
		from, to, ok := strings.Cut(value, "=")
		if !ok {
			return fmt.Errorf("%q has no =", value)
		}
		files[from] = to
		return nil
	})
	flag.Parse()
	if err := run(*pkg, files); err != nil {
		fmt.Fprintln(os.Stderr, "extract:", err)
		os.Exit(1)
	}
}

func run(pkg string, files map[string]string) error {
	archive, err := os.Open(pkg)
	if err != nil {
		return err
	}
	defer archive.Close()
	wanted := func(p string) bool { return files[p] != "" }
	err = deb.Read(archive, wanted, func(file deb.File) error {
		if file.Type != tar.TypeReg {
			return fmt.Errorf("%s is not a regular file", file.Path)
		}
		out := files[file.Path]
		delete(files, file.Path)
		return os.WriteFile(out, file.Content, 0o644)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", pkg, err)
	}
	for missing := range files {
		return fmt.Errorf("%s: no file %s", pkg, missing)
	}
	return nil
}
