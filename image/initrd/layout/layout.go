// SPDX-License-Identifier: Apache-2.0

// Package layout names the files of the initrd. It is apart from the builder so that the program in the initrd links
// nothing that it does not use.
package layout

const (
	// InitPath is the first program, where the kernel looks for it.
	InitPath = "init"
	// ModuleDirectory holds the kernel modules.
	ModuleDirectory = "modules"
	// ModuleList names the files in ModuleDirectory, one a line, in the order in which they are to be loaded.
	ModuleList = "modules/load"
	// Root is where the real root is mounted.
	Root = "sysroot"
)
