// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// moduleIndices are what depmod makes and libkmod reads at run time.
var moduleIndices = []string{
	"modules.alias.bin", "modules.builtin.alias.bin", "modules.builtin.bin", "modules.dep", "modules.dep.bin",
	"modules.softdep", "modules.symbols.bin",
}

// AddCaches runs ldconfig and depmod, given by their paths, over a copy of what they read, and adds what they write.
func (t Tree) AddCaches(ldconfig, depmod string) error {
	dir, err := os.MkdirTemp("", "root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := t.linkerCache(filepath.Join(dir, "libraries"), ldconfig); err != nil {
		return err
	}
	return t.moduleIndex(filepath.Join(dir, "modules"), depmod)
}

func (t Tree) linkerCache(dir, ldconfig string) error {
	isLibrary := func(p string) bool { return slices.Contains(libraryDirectories, path.Dir(p)) }
	if err := t.copyTo(dir, isLibrary); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		return err
	}
	// The directories that Debian's loader searches anyway have to be named to ldconfig all the same.
	configuration := "/" + libraryDirectories[0] + "\n"
	if err := os.WriteFile(filepath.Join(dir, "etc/ld.so.conf"), []byte(configuration), 0o644); err != nil {
		return err
	}
	// Links come from the packages (-X), and no cache of a former run is used (-i).
	if err := run(ldconfig, "-X", "-i", "-r", dir, "-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache"); err != nil {
		return err
	}
	cache, err := os.ReadFile(filepath.Join(dir, "etc/ld.so.cache"))
	if err != nil {
		return err
	}
	return t.Add("etc/ld.so.cache", regular(cache, ownRule))
}

func (t Tree) moduleIndex(dir, depmod string) error {
	const modules = "usr/lib/modules"
	var version string
	for _, p := range t.Paths() {
		if path.Dir(p) == modules {
			version = path.Base(p)
		}
	}
	if version == "" {
		return nil
	}
	if err := t.copyTo(dir, func(p string) bool { return strings.HasPrefix(p, modules+"/") }); err != nil {
		return err
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		return err
	}
	if err := run(depmod, "-b", dir, version); err != nil {
		return err
	}
	for _, name := range moduleIndices {
		p := path.Join(modules, version, name)
		content, err := os.ReadFile(filepath.Join(dir, p))
		if errors.Is(err, fs.ErrNotExist) {
			continue // which ones depmod makes depends on its version
		}
		if err != nil {
			return err
		}
		if err := t.Add(p, regular(content, ownRule)); err != nil {
			return err
		}
	}
	// Inputs of depmod that nothing reads at run time.
	for _, name := range []string{"modules.builtin.modinfo", "modules.order"} {
		delete(t, path.Join(modules, version, name))
	}
	return nil
}

// copyTo writes the files that keep wants below dir.
func (t Tree) copyTo(dir string, keep func(string) bool) error {
	for _, p := range t.Paths() {
		node := t[p]
		if !keep(p) || node.Type == tar.TypeDir {
			continue
		}
		file := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		var err error
		if node.Type == tar.TypeSymlink {
			err = os.Symlink(node.Target, file)
		} else {
			err = os.WriteFile(file, node.Content, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func run(program string, arguments ...string) error {
	command := exec.Command(program, arguments...)
	command.Env = []string{"LC_ALL=C"}
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", path.Base(program), err, output)
	}
	return nil
}
