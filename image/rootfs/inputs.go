// SPDX-License-Identifier: Apache-2.0

package rootfs

// Inputs lists what a root is composed of. Sources are paths of the builder; a build writes the list as JSON.
type Inputs struct {
	// Packages are the .deb files that bring files by the selection, KernelPackage the one that brings modules.
	Packages      []string `json:"packages"`
	KernelPackage string   `json:"kernelPackage"`
	// Selections and Declarations are read in order; Modules lists the kernel modules.
	Selections   []string `json:"selections"`
	Declarations []string `json:"declarations"`
	Modules      []string `json:"modules"`
	// Files are our own files and programs.
	Files []InputFile `json:"files"`
	// Ldconfig and Depmod are the programs.
	Ldconfig string `json:"ldconfig"`
	Depmod   string `json:"depmod"`
	// Executables is the golden list, GoldenName what to call it in a message.
	Executables string `json:"executables"`
	GoldenName  string `json:"goldenName"`
	// Debug allows a shell.
	Debug bool `json:"debug"`
}

// InputFile is one file of ours.
type InputFile struct {
	// Source is the builder's path, Path the place below the root.
	Source string `json:"source"`
	Path   string `json:"path"`
	// Mode holds the permission bits.
	Mode int64 `json:"mode"`
	// Origin names the part of this repository that it comes from.
	Origin string `json:"origin"`
}
