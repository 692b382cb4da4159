// SPDX-License-Identifier: Apache-2.0

// Package kernelmodule reads what a kernel module says about itself and orders modules for loading.
//
// Trust boundary: modules come from the locked kernel package. Their signature is checked by the kernel that loads
// them (module.sig_enforce=1), not here.
//
// Not guaranteed: soft dependencies are hints for a loader and are not followed, modules that are wanted only for
// their speed (an accelerated hash, say) must be named by the caller.
package kernelmodule

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ulikunitz/xz"
)

// MaxSize is the largest module, in bytes, after decompression. The largest of Debian's cloud kernel has 6 MiB.
const MaxSize = 64 << 20

// Module is one loadable kernel module.
type Module struct {
	// Name is what the kernel calls the module, with underscores.
	Name string
	// Path is where the uncompressed module belongs below the root.
	Path string
	// Content is the uncompressed module with its appended signature.
	Content []byte
	// Depends names the modules that must be loaded before.
	Depends []string
}

// NameOf returns the kernel's name for the module file at p, and whether p is one.
func NameOf(p string) (string, bool) {
	base := strings.TrimSuffix(path.Base(p), ".xz")
	name, ok := strings.CutSuffix(base, ".ko")
	return Normalize(name), ok
}

// Normalize spells a module's name as the kernel does.
func Normalize(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

// Parse reads a module file, uncompressed or compressed by xz.
func Parse(p string, content []byte) (Module, error) {
	name, ok := NameOf(p)
	if !ok {
		return Module{}, fmt.Errorf("%s: not a kernel module's name", p)
	}
	if strings.HasSuffix(p, ".xz") {
		plain, err := decompress(content)
		if err != nil {
			return Module{}, fmt.Errorf("%s: %w", p, err)
		}
		p, content = strings.TrimSuffix(p, ".xz"), plain
	}
	depends, err := depends(content)
	if err != nil {
		return Module{}, fmt.Errorf("%s: %w", p, err)
	}
	return Module{Name: name, Path: p, Content: content, Depends: depends}, nil
}

func decompress(content []byte) ([]byte, error) {
	r, err := xz.ReaderConfig{DictCap: 1 << 16}.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(plain) > MaxSize {
		return nil, fmt.Errorf("module is larger than %d bytes", MaxSize)
	}
	return plain, nil
}

// depends returns the module's own list of dependencies, kept in the ELF section .modinfo as NUL-terminated
// key=value strings.
func depends(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("parse module: %w", err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("parse module: no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("parse module: %w", err)
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		list, ok := strings.CutPrefix(entry, "depends=")
		if !ok || list == "" {
			continue
		}
		var names []string
		for name := range strings.SplitSeq(list, ",") {
			names = append(names, Normalize(name))
		}
		return names, nil
	}
	return nil, nil
}

// LoadOrder returns the wanted modules and all that they depend on, dependencies first and else in the order of
// wanted. lookup finds a module by name; a name that builtin knows is part of the kernel itself and left out.
func LoadOrder(wanted []string, lookup func(name string) (Module, error), builtin map[string]bool) ([]Module, error) {
	const visiting, done = 1, 2
	state := map[string]int{}
	var order []Module
	var visit func(name string) error
	visit = func(name string) error {
		switch {
		case state[name] == done || builtin[name]:
			return nil
		case state[name] == visiting:
			return fmt.Errorf("module %s depends on itself", name)
		}
		state[name] = visiting
		module, err := lookup(name)
		if err != nil {
			return err
		}
		for _, dependency := range module.Depends {
			if err := visit(dependency); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		state[name] = done
		order = append(order, module)
		return nil
	}
	for _, name := range wanted {
		if err := visit(Normalize(name)); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// Builtin parses the kernel's list of modules that are linked into it (modules.builtin).
func Builtin(list []byte) map[string]bool {
	names := map[string]bool{}
	for line := range strings.SplitSeq(string(list), "\n") {
		if name, ok := NameOf(line); ok {
			names[name] = true
		}
	}
	return names
}

// ParseList reads a list of module names: one a line, # begins a comment.
func ParseList(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		if name := strings.TrimSpace(line); name != "" {
			names = append(names, Normalize(name))
		}
	}
	return names
}
