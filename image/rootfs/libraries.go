// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// isELF says whether content is an ELF file.
func isELF(content []byte) bool { return bytes.HasPrefix(content, []byte(elf.ELFMAG)) }

// AddLibraries adds, from the libraries of all packages, those that ELF files of the tree need, again and again until
// nothing is missing. A library that is needed and not to be had is an error that names who needs it.
func (b *Builder) AddLibraries() error {
	queue := b.Tree.Paths()
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		node := b.Tree[file]
		if node.Type != tar.TypeReg || !isELF(node.Content) || isModule(file) {
			continue
		}
		needed, searched, err := dynamic(node.Content)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, name := range needed {
			added, err := b.addLibrary(name, searched)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", file, node.Origin, err)
			}
			queue = append(queue, added...)
		}
	}
	return nil
}

// dynamic returns the names of the libraries that an ELF file needs, its interpreter's included, and the directories
// that it wants them searched in first.
func dynamic(content []byte) (needed, searched []string, err error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, nil, fmt.Errorf("parse ELF file: %w", err)
	}
	needed, err = file.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, nil, fmt.Errorf("parse ELF file: %w", err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := file.DynString(tag)
		if err != nil {
			return nil, nil, fmt.Errorf("parse ELF file: %w", err)
		}
		for _, list := range paths {
			for p := range strings.SplitSeq(list, ":") {
				searched = append(searched, strings.TrimPrefix(path.Clean(p), "/"))
			}
		}
	}
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP {
			interpreter := make([]byte, program.Filesz)
			if _, err := program.ReadAt(interpreter, 0); err != nil {
				return nil, nil, fmt.Errorf("parse ELF file: %w", err)
			}
			needed = append(needed, path.Base(strings.TrimRight(string(interpreter), "\x00")))
		}
	}
	return needed, searched, nil
}

// addLibrary makes sure that the tree holds the library, with the links that lead to it, and returns the paths that it
// added.
func (b *Builder) addLibrary(name string, searched []string) ([]string, error) {
	for _, dir := range slices.Concat(searched, libraryDirectories) {
		file := path.Join(dir, name)
		var added []string
		for {
			node := b.Tree[file]
			if node == nil {
				if node = b.pool[file]; node == nil {
					break
				}
				if err := b.Tree.Add(file, node); err != nil {
					return nil, err
				}
				added = append(added, file)
			}
			if node.Type != tar.TypeSymlink {
				return added, nil
			}
			file = linkTarget(file, node.Target)
		}
		if len(added) > 0 {
			return nil, fmt.Errorf("library %s is a link to %s, which no package has", name, file)
		}
	}
	return nil, fmt.Errorf("needs the library %s, which no package of the root has", name)
}
