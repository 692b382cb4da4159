// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// Programs inside the firmware that get a boot option.
var (
	uiApp        = gpt.MustParseGUID("462caa21-7614-4503-836e-8ab6f4662331")
	shell        = gpt.MustParseGUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
	autoCreated  = gpt.MustParseGUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")
	pciRootNode  = []byte{0x02, 0x01, 0x0c, 0x00, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0} // PNP0A03, UID 0
	endOfDevPath = []byte{0x7f, 0xff, 0x04, 0x00}
)

// Attributes of a boot option (UEFI Specification 2.10, section 3.1.3).
const (
	optionActive = 0x0001
	optionHidden = 0x0008
	optionApp    = 0x0100
)

// bootOption is EFI_LOAD_OPTION (UEFI Specification 2.10, section 3.1.3).
func bootOption(attributes uint32, description []byte, path, optional []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, attributes)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(path)))
	out = append(out, description...)
	out = append(out, path...)
	return append(out, optional...)
}

// bootOptions predicts PCR 1's boot variables for an empty variable store. The
// boot manager numbers the options as it creates them: its own menu, the
// devices that fw_cfg's boot order names (nothing else is connected), the
// shell. QEMU's order then puts the disk first (BdsPlatform.c,
// PlatformBootManagerAfterConsole; QemuBootOrderLib.c, SetBootOrderFromQemu).
func (b *builder) bootOptions(m *measurements.Machine, code *ovmf.Code, vars ovmf.Variables) error {
	for _, v := range vars {
		if v.Vendor == ovmf.GlobalVariable && (strings.HasPrefix(v.Name, "Boot") || strings.HasPrefix(v.Name, "Driver")) {
			return fail(ReasonBootOptions, "the variable store holds %q; boot from a store that no firmware has written to", v.Name)
		}
	}
	type option struct {
		number      int
		data        []byte
		description string
	}
	var menu, internal []option
	next := 0
	add := func(to *[]option, data []byte, description string) {
		*to = append(*to, option{next, data, description})
		next++
	}
	if f := code.DXE.File(uiApp); f != nil {
		name, err := f.UI()
		if err != nil {
			return err
		}
		add(&menu, bootOption(optionActive|optionHidden|optionApp, name, firmwarePath(code, uiApp), nil), "firmware menu")
	}
	disk := option{next, bootOption(optionActive, utf16z("UEFI Misc Device"), pciPath(m.BootDisk()), autoCreated[:]),
		fmt.Sprintf("disk in PCI slot %d", m.BootDisk())}
	next++
	if code.DXE.File(shell) != nil {
		add(&internal, bootOption(optionActive, utf16z("EFI Internal Shell"), firmwarePath(code, shell), nil), "firmware shell")
	}
	options := append([]option{disk}, append(menu, internal...)...)
	var order []byte
	for _, o := range options {
		order = binary.LittleEndian.AppendUint16(order, uint16(o.number))
	}
	// Of these variables the data alone is hashed (TCG PFP 1.06, table 14,
	// EV_EFI_VARIABLE_BOOT; Tcg2Dxe, MeasureVariable).
	b.add(1, tcg.EFIVariableBoot, measurements.ComponentMachine, "variable BootOrder", order)
	for _, o := range options {
		b.add(1, tcg.EFIVariableBoot, measurements.ComponentMachine, fmt.Sprintf("variable Boot%04X (%s)", o.number, o.description), o.data)
	}
	return nil
}

// pciPath is the device path of a function 0 on PCI bus 0 (UEFI Specification
// 2.10, sections 10.3.2 and 10.3.3).
func pciPath(slot int) []byte {
	out := append([]byte(nil), pciRootNode...)
	out = append(out, 0x01, 0x01, 0x06, 0x00, 0, byte(slot))
	return append(out, endOfDevPath...)
}

// firmwarePath is the device path of a file in the DXE volume (PI 1.8 volume 3,
// section 5.8: media device path, subtypes 7 and 6).
func firmwarePath(code *ovmf.Code, file gpt.GUID) []byte {
	out := append([]byte{0x04, 0x07, 0x14, 0x00}, code.DXE.Name[:]...)
	out = append(out, 0x04, 0x06, 0x14, 0x00)
	out = append(out, file[:]...)
	return append(out, endOfDevPath...)
}

// utf16z encodes text in UTF-16 with a terminating zero.
func utf16z(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, 0, 0)
}
