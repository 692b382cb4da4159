// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"encoding/binary"
	"fmt"
)

// A processor is what OVMF looks at when it decides where in the physical
// address space 64-bit PCI resources go.
type processor struct {
	vendor   string
	physBits int
	la57     bool // five-level paging
	page1G   bool // pages of 1 GiB
}

// processor asks QEMU for the first processor's properties.
func (m *monitor) processor(ctx context.Context) (processor, error) {
	var cpus []struct {
		Path string `json:"qom-path"`
	}
	if err := m.run(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return processor{}, err
	}
	if len(cpus) == 0 {
		return processor{}, fmt.Errorf("QEMU knows of no processor")
	}
	var p processor
	for property, to := range map[string]any{
		"vendor": &p.vendor, "phys-bits": &p.physBits, "la57": &p.la57, "pdpe1gb": &p.page1G,
	} {
		arguments := map[string]any{"path": cpus[0].Path, "property": property}
		if err := m.run(ctx, "qom-get", arguments, to); err != nil {
			return processor{}, err
		}
	}
	return p, nil
}

// mmioWindow is the address where OVMF begins to place 64-bit PCI resources: the
// last eighth of the address space, where it trusts the processor's statement of
// its width, moved below what the memory map reserves there
// (PlatformAddressWidthFromCpuid, PlatformDynamicMmioWindow and
// PlatformReservationConflictCB in edk2's
// OvmfPkg/Library/PlatformInitLib/MemDetect.c).
func (p processor) mmioWindow(e820 []byte) (uint64, error) {
	trusted := p.physBits >= 41 ||
		p.vendor == "GenuineIntel" && (p.physBits == 36 || p.physBits == 39) ||
		p.vendor == "AuthenticAMD" && p.physBits == 40
	if !trusted {
		return 0, fmt.Errorf("the firmware does not believe that a processor of %s has %d address bits: choose another -cpu",
			p.vendor, p.physBits)
	}
	bits := p.physBits
	if p.la57 {
		bits = min(bits, 48)
	} else {
		bits = min(bits, 46)
	}
	if !p.page1G {
		bits = min(bits, 40)
	}
	size := uint64(1) << (bits - 3)
	base := uint64(1)<<bits - size
	for entry := range chunks(e820, e820EntrySize) {
		start := binary.LittleEndian.Uint64(entry)
		end := start + binary.LittleEndian.Uint64(entry[8:])
		if max(start, base) < min(end, base+size) {
			base = (start - size) &^ (size - 1)
		}
	}
	return base, nil
}

// e820EntrySize is the size of an entry of the memory map: start, length (64
// bits each) and type (32 bits).
const e820EntrySize = 20

// PCI configuration registers (PCI Local Bus Specification 3.0, 6.1).
const (
	pciVendorID  = 0x00
	pciCommand   = 0x04
	pciFirstBAR  = 0x10
	pciLastBAR   = 0x24
	pciDevices   = 32
	pciNoDevice  = 0xffff
	pciDecodeIO  = 1 << 0
	pciDecodeMem = 1 << 1

	barTypeMask        = 0xf
	barPrefetchable64  = 0xc // memory, 64 bits, prefetchable
	barPlacementStride = 1 << 20
)

// programBoard sets the registers that OVMF would have set before it reads the
// ACPI tables, as far as these depend on them. window is where 64-bit PCI
// resources begin.
func programBoard(q *qtest, window uint64) error {
	for _, r := range []struct {
		device, register uint8
		value            uint32
	}{
		{0, 0x64, 0},              // PCIEXBAR, high half
		{0, 0x60, 0xe0000000 | 1}, // PCIEXBAR: PcdPciExpressBaseAddress, 256 MiB, enabled
		{0x1f, 0x40, 0x600 | 1},   // PMBASE: ICH9_PMBASE_VALUE in I/O space
		{0x1f, 0x44, 0x80},        // ACPI_CNTL: power management I/O enabled
	} {
		if err := q.pciWrite(r.device, 0, r.register, r.value); err != nil {
			return err
		}
	}
	for device := range uint8(pciDevices) {
		var err error
		if window, err = placeDevice(q, device, window); err != nil {
			return err
		}
	}
	return nil
}

// placeDevice gives the 64-bit prefetchable resources of one device addresses
// from next on, and returns the address after them. The tables mention only
// where the first of all lies.
func placeDevice(q *qtest, device uint8, next uint64) (uint64, error) {
	id, err := q.pciRead(device, 0, pciVendorID)
	if err != nil || id&0xffff == pciNoDevice {
		return next, err
	}
	for bar := uint8(pciFirstBAR); bar < pciLastBAR; bar += 4 {
		value, err := q.pciRead(device, 0, bar)
		if err != nil {
			return next, err
		}
		if value&barTypeMask != barPrefetchable64 {
			continue
		}
		if err := q.pciWrite(device, 0, bar, uint32(next)); err != nil {
			return next, err
		}
		if err := q.pciWrite(device, 0, bar+4, uint32(next>>32)); err != nil {
			return next, err
		}
		next += barPlacementStride
		bar += 4
	}
	return next, q.pciWrite(device, 0, pciCommand, pciDecodeIO|pciDecodeMem)
}
