// SPDX-License-Identifier: Apache-2.0

// Package rootfs composes the root file system of the image as a tar archive.
//
// Inputs are Debian packages, of which a selection names the files that enter; a tree of our own files; declared
// directories and links; our binaries; and the kernel's modules. What maintainer scripts, systemd-sysusers,
// systemd-tmpfiles, ldconfig and depmod would do on a running system is done here once, at build time: nothing of it
// is left to do on the read-only root.
//
// Trust boundary: all inputs are pinned by hash. The package enforces, on what comes out, the promises that the
// image makes to people: no shell or interpreter, no script, no setuid or setgid file, no library that is missing,
// no executable that the golden list does not name.
//
// Not guaranteed: that a listed executable is harmless. The golden list is there so that a person decides.
package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Node is one file of the root.
type Node struct {
	// Type is one of tar.TypeReg, tar.TypeDir and tar.TypeSymlink.
	Type byte
	// Mode holds the permission bits.
	Mode int64
	// UID and GID are the numeric owner.
	UID, GID int
	// Target is where a symbolic link points.
	Target string
	// Content is what a regular file holds.
	Content []byte
	// Origin names the package, or what else the file came from.
	Origin string
}

// Tree maps clean paths below the root, without a leading slash, to files.
type Tree map[string]*Node

// ownRule is the origin of what this package makes itself.
const ownRule = "image/rootfs"

// Add puts a file into the tree, with the directories above it. A file may be added twice only if both are the same
// directory.
func (t Tree) Add(file string, node *Node) error {
	file = path.Clean(strings.TrimPrefix(file, "/"))
	if file == "." || file == ".." || strings.HasPrefix(file, "../") {
		return fmt.Errorf("path %q is not below the root", file)
	}
	if old := t[file]; old != nil {
		if old.Type == tar.TypeDir && node.Type == tar.TypeDir {
			// A declaration comes after the packages and decides.
			if node.Origin == ownRule {
				t[file] = node
			}
			return nil
		}
		return fmt.Errorf("%s comes from %s and from %s", file, old.Origin, node.Origin)
	}
	for parent := path.Dir(file); parent != "."; parent = path.Dir(parent) {
		above := t[parent]
		if above == nil {
			t[parent] = &Node{Type: tar.TypeDir, Mode: 0o755, Origin: node.Origin}
			continue
		}
		if above.Type != tar.TypeDir {
			return fmt.Errorf("%s of %s is below %s of %s, which is not a directory", file, node.Origin, parent, above.Origin)
		}
	}
	t[file] = node
	return nil
}

// Paths returns all paths in byte order.
func (t Tree) Paths() []string { return slices.Sorted(maps.Keys(t)) }

// Resolve follows symbolic links and returns the path of the file that is reached.
func (t Tree) Resolve(file string) (string, bool) {
	for range 16 {
		file = t.resolveDirectories(file)
		node := t[file]
		if node == nil {
			return "", false
		}
		if node.Type != tar.TypeSymlink {
			return file, true
		}
		file = linkTarget(file, node.Target)
	}
	return "", false
}

// resolveDirectories replaces a leading directory that is a link, such as lib, by what it points at.
func (t Tree) resolveDirectories(file string) string {
	elements := strings.Split(file, "/")
	for i := 1; i < len(elements); i++ {
		above := strings.Join(elements[:i], "/")
		if node := t[above]; node != nil && node.Type == tar.TypeSymlink {
			return t.resolveDirectories(path.Join(linkTarget(above, node.Target), strings.Join(elements[i:], "/")))
		}
	}
	return file
}

func linkTarget(link, target string) string {
	if path.IsAbs(target) {
		return path.Clean(strings.TrimLeft(target, "/"))
	}
	return path.Join(path.Dir(link), target)
}

// WriteTar writes the tree in path order. All times are modified.
func (t Tree) WriteTar(w io.Writer, modified time.Time) error {
	archive := tar.NewWriter(w)
	write := func(name string, node *Node) error {
		header := &tar.Header{
			Format: tar.FormatPAX, Typeflag: node.Type, Name: name, Linkname: node.Target, Mode: node.Mode,
			Uid: node.UID, Gid: node.GID, ModTime: modified, Size: int64(len(node.Content)),
		}
		if node.Type == tar.TypeDir {
			header.Name += "/"
		}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := io.Copy(archive, bytes.NewReader(node.Content)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		return nil
	}
	if err := write(".", &Node{Type: tar.TypeDir, Mode: 0o755}); err != nil {
		return err
	}
	for _, name := range t.Paths() {
		if err := write("./"+name, t[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}

// AddOwn puts a file of ours into the tree. It replaces what a package brought at the same path: our unit file or
// rule for the same name is meant instead.
func (t Tree) AddOwn(file string, mode int64, content []byte, origin string) error {
	if old := t[file]; old != nil && old.Type != tar.TypeDir {
		delete(t, file)
	}
	return t.Add(file, &Node{Type: tar.TypeReg, Mode: mode, Content: content, Origin: origin})
}
