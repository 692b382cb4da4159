// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/image/deb"
)

// libraryDirectories hold shared libraries. Their content is a pool: a library enters the root only if an executable
// or another library of the root needs it, or if the selection names it because it is opened at run time.
var libraryDirectories = []string{"usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"}

// Builder collects the files of packages.
type Builder struct {
	// Tree holds what has been selected.
	Tree      Tree
	selection *Selection
	pool      Tree
	seen      map[string]bool
}

// NewBuilder makes a builder with an empty tree.
func NewBuilder(selection *Selection) *Builder {
	return &Builder{Tree: Tree{}, selection: selection, pool: Tree{}, seen: map[string]bool{}}
}

// AddPackage reads a package and takes the selected files.
func (b *Builder) AddPackage(name string, r io.Reader) error {
	b.seen[name] = true
	links := map[string]deb.File{}
	keep := func(p string) bool { return b.selection.match(name, p) != nil || isPooled(p) }
	err := deb.Read(r, keep, func(file deb.File) error {
		if file.Type == tar.TypeLink {
			links[file.Path] = file
			return nil
		}
		return b.addFile(name, file)
	})
	if err != nil {
		return fmt.Errorf("package %s: %w", name, err)
	}
	for p, link := range links {
		target := b.Tree[link.Target]
		if target == nil {
			return fmt.Errorf("package %s: %s is a hard link to %s, which is not selected", name, p, link.Target)
		}
		link.Type, link.Content = tar.TypeReg, target.Content
		if err := b.addFile(name, link); err != nil {
			return fmt.Errorf("package %s: %w", name, err)
		}
	}
	return nil
}

func isPooled(p string) bool {
	return slices.Contains(libraryDirectories, path.Dir(p)) && strings.Contains(path.Base(p), ".so")
}

func (b *Builder) addFile(name string, file deb.File) error {
	node := &Node{
		Type: file.Type, Mode: file.Mode, UID: file.UID, GID: file.GID,
		Target: file.Target, Content: file.Content, Origin: name,
	}
	p := b.selection.match(name, file.Path)
	if p == nil {
		b.pool[file.Path] = node
		return nil
	}
	p.used = true
	if p.hasMode {
		node.Mode = p.mode
	}
	return b.Tree.Add(file.Path, node)
}

// Finish checks that the selection was met in full.
func (b *Builder) Finish() error {
	for name := range b.selection.patterns {
		if !b.seen[name] {
			return fmt.Errorf("the selection names the package %s, which is not among the inputs", name)
		}
	}
	if unused := b.selection.unused(); len(unused) > 0 {
		slices.Sort(unused)
		return fmt.Errorf("patterns of the selection that match no file:\n  %s", strings.Join(unused, "\n  "))
	}
	return nil
}
