// SPDX-License-Identifier: Apache-2.0

package initrd

import (
	"fmt"
	"io"
	"strings"

	"github.com/constellation-os/constellation/image/deb"
	"github.com/constellation-os/constellation/image/kernelmodule"
)

// Kernel is what a kernel's package holds.
type Kernel struct {
	// Image is the bootable kernel (vmlinuz).
	Image   []byte
	packed  map[string]deb.File
	builtin map[string]bool
}

// ReadKernel reads a kernel's package.
func ReadKernel(r io.Reader) (*Kernel, error) {
	k := &Kernel{packed: map[string]deb.File{}, builtin: map[string]bool{}}
	keep := func(path string) bool {
		_, isModule := kernelmodule.NameOf(path)
		return isModule || strings.HasSuffix(path, "/modules.builtin") || strings.HasPrefix(path, "boot/vmlinuz-")
	}
	err := deb.Read(r, keep, func(file deb.File) error {
		switch name, ok := kernelmodule.NameOf(file.Path); {
		case ok:
			k.packed[name] = file
		case strings.HasPrefix(file.Path, "boot/"):
			k.Image = file.Content
		default:
			k.builtin = kernelmodule.Builtin(file.Content)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if k.Image == nil {
		return nil, fmt.Errorf("the package has no kernel")
	}
	return k, nil
}

// Modules returns the wanted modules and their dependencies, in loading order.
func (k *Kernel) Modules(wanted []string) ([]kernelmodule.Module, error) {
	return kernelmodule.LoadOrder(wanted, func(name string) (kernelmodule.Module, error) {
		file, ok := k.packed[name]
		if !ok {
			return kernelmodule.Module{}, fmt.Errorf("the kernel package has no module %s", name)
		}
		return kernelmodule.Parse(file.Path, file.Content)
	}, k.builtin)
}
