// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/image/deb"
	"github.com/constellation-os/constellation/image/kernelmodule"
)

// Files of the kernel package that describe its modules and that depmod reads.
var moduleLists = []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"}

func isModule(file string) bool {
	_, ok := kernelmodule.NameOf(file)
	return ok
}

// AddModules takes the wanted modules and all that they depend on from the kernel's package. Modules become
// uncompressed: their signature covers the uncompressed bytes, the kernel then has nothing to unpack, and the root's
// own compression does as well. wanted may hold patterns of path.Match.
func (b *Builder) AddModules(name string, r io.Reader, wanted []string) error {
	packed := map[string]deb.File{}
	var lists []deb.File
	keep := func(p string) bool { return isModule(p) || slices.Contains(moduleLists, path.Base(p)) }
	if err := deb.Read(r, keep, func(file deb.File) error {
		if module, ok := kernelmodule.NameOf(file.Path); ok {
			packed[module] = file
		} else {
			lists = append(lists, file)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("package %s: %w", name, err)
	}
	builtin := map[string]bool{}
	for _, list := range lists {
		if path.Base(list.Path) == "modules.builtin" {
			builtin = kernelmodule.Builtin(list.Content)
		}
		if err := b.Tree.Add(list.Path, regular(list.Content, name)); err != nil {
			return err
		}
	}
	names, err := expand(wanted, packed, builtin)
	if err != nil {
		return fmt.Errorf("package %s: %w", name, err)
	}
	modules, err := kernelmodule.LoadOrder(names, func(module string) (kernelmodule.Module, error) {
		file, ok := packed[module]
		if !ok {
			return kernelmodule.Module{}, fmt.Errorf("package %s has no module %s", name, module)
		}
		return kernelmodule.Parse(file.Path, file.Content)
	}, builtin)
	if err != nil {
		return err
	}
	for _, module := range modules {
		if err := b.Tree.Add(module.Path, regular(module.Content, name)); err != nil {
			return err
		}
	}
	return nil
}

func regular(content []byte, origin string) *Node {
	return &Node{Type: tar.TypeReg, Mode: 0o644, Content: content, Origin: origin}
}

// expand replaces patterns by the names of the modules that they match.
func expand(wanted []string, packed map[string]deb.File, builtin map[string]bool) ([]string, error) {
	var names []string
	for _, want := range wanted {
		if !strings.ContainsAny(want, "*?[") {
			names = append(names, want)
			continue
		}
		before := len(names)
		for name := range packed {
			if ok, err := path.Match(want, name); err != nil {
				return nil, fmt.Errorf("pattern %q: %w", want, err)
			} else if ok {
				names = append(names, name)
			}
		}
		if len(names) == before {
			return nil, errors.New("no module matches " + want)
		}
	}
	slices.Sort(names)
	return names, nil
}
