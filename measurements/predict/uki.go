// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// bootDisk predicts what firmware measures when it loads the UKI
// (SecurityPkg/Library/DxeTpm2MeasureBootLib): the disk's partition table once,
// then the program.
func (b *builder) bootDisk(table *gpt.Table, uki *pe.UKI) error {
	b.add(5, tcg.EFIGPT, measurements.ComponentPartitions, "partition table", table.Event())
	b.add(4, tcg.EFIBootServicesApp, measurements.ComponentUKI, "UKI "+BootFile, uki.Authenticode()...)
	return nil
}

// kernel predicts what systemd-stub measures of the UKI's sections, and what
// firmware and the kernel's EFI stub measure of the kernel started from it.
func (b *builder) kernel(uki *pe.UKI) error {
	for _, name := range pe.UKISections {
		content, ok := uki.Section(name)
		if !ok || name == ".pcrsig" { // a signature over the result cannot be part of it
			continue
		}
		c := sectionComponent(name)
		b.add(11, tcg.IPL, c, "name of section "+name, append([]byte(name), 0))
		b.add(11, tcg.IPL, c, "content of section "+name, content)
	}
	linux, _ := uki.Section(".linux")
	image, err := pe.Parse(linux)
	if err != nil {
		return fmt.Errorf("section .linux: %w", err)
	}
	b.add(4, tcg.EFIBootServicesApp, measurements.ComponentKernel, "kernel from section .linux", image.Authenticode()...)

	options, err := loadOptions(uki)
	if err != nil {
		return err
	}
	// Linux, drivers/firmware/efi/libstub: tagged events of the kernel's stub.
	b.add(9, tcg.EventTag, measurements.ComponentCmdline, "kernel command line", options)
	if initrd := loadedInitrd(uki); initrd != nil {
		b.add(9, tcg.EventTag, measurements.ComponentInitrd, "initrd", initrd...)
	}
	// Tcg2Dxe, OnExitBootServices (TCG PFP 1.06, section 8.2.4).
	for _, s := range []string{"Exit Boot Services Invocation", "Exit Boot Services Returned with Success"} {
		b.add(5, tcg.EFIAction, measurements.ComponentFirmware, s, []byte(s))
	}
	return nil
}

func sectionComponent(name string) measurements.Component {
	switch name {
	case ".linux":
		return measurements.ComponentKernel
	case ".initrd", ".ucode":
		return measurements.ComponentInitrd
	case ".cmdline":
		return measurements.ComponentCmdline
	}
	return measurements.ComponentMetadata
}

// loadOptions is the command line as systemd-stub hands it to the kernel: UTF-16
// with its terminating zero, white space and control characters turned into
// spaces, those at the ends dropped (src/boot/util.c, mangle_stub_cmdline).
func loadOptions(uki *pe.UKI) ([]byte, error) {
	section, ok := uki.Section(".cmdline")
	if !ok {
		return nil, fail(ReasonNoCommandLine, "the UKI has no section .cmdline")
	}
	text, _, _ := bytes.Cut(section, []byte{0})
	if !utf8.Valid(text) {
		return nil, fail(ReasonCommandLine, "it is not valid UTF-8")
	}
	mangled := bytes.TrimFunc(text, blank)
	mangled = bytes.Map(func(r rune) rune {
		if blank(r) {
			return ' '
		}
		return r
	}, mangled)
	if len(mangled) == 0 {
		return nil, fail(ReasonNoCommandLine, "the UKI's command line is empty")
	}
	return utf16z(string(mangled)), nil
}

func blank(r rune) bool { return r <= ' ' || r == 0x7f }
