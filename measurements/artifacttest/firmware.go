// SPDX-License-Identifier: Apache-2.0

package artifacttest

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"

	"github.com/ulikunitz/xz/lzma"

	"github.com/constellation-os/constellation/measurements/gpt"
)

// FirmwareVersion is the version string inside FirmwareCode.
const FirmwareVersion = "2025.02-test"

// DXEVolume is the name of the DXE volume inside FirmwareCode.
var DXEVolume = gpt.GUID{15: 0xdd}

// GUIDs of files that OVMF has.
var (
	tcg2Pei   = gpt.MustParseGUID("a0c98b77-cba5-4bb8-993b-4af6ce33ece4")
	uiApp     = gpt.MustParseGUID("462caa21-7614-4503-836e-8ab6f4662331")
	shell     = gpt.MustParseGUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
	secure    = gpt.MustParseGUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
	lzmaGUID  = gpt.MustParseGUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
	ffs2      = gpt.MustParseGUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
	nvData    = gpt.MustParseGUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
	authStore = gpt.MustParseGUID("aaf32c78-947b-439a-a180-2e144ec37792")
)

// Volumes are the firmware volumes inside the code image.
type Volumes struct {
	PEI, DXE []byte
	// TimerOffset is where in PEI the PEI core keeps the ACPI timer's port.
	TimerOffset int
}

// FirmwareVolumes makes the two volumes; secureBoot adds the module that
// enforces it.
func FirmwareVolumes(secureBoot bool) Volumes {
	var v Volumes
	// The core: code that stores 0x608 into the variable at byte 40.
	core := make([]byte, 64)
	copy(core, "core")
	copy(core[8:], []byte{0xc7, 0x05, 40 - 18, 0, 0, 0, 0x08, 0x06, 0, 0})
	tcg := append([]byte("code"), UTF16(FirmwareVersion)...)
	v.PEI = volume(gpt.GUID{15: 0xee},
		ffsFile(gpt.GUID{15: 1}, 0x04, ffsSection(0x10, core)),
		ffsFile(tcg2Pei, 0x06, ffsSection(0x10, tcg), ffsSection(0x15, UTF16("Tcg2Pei"))))
	v.TimerOffset = bytes.Index(v.PEI, core) + 40
	files := [][]byte{
		ffsFile(uiApp, 0x09, ffsSection(0x10, []byte("menu")), ffsSection(0x15, UTF16("UiApp"))),
		ffsFile(shell, 0x09, ffsSection(0x10, []byte("shell"))),
	}
	if secureBoot {
		files = append(files, ffsFile(secure, 0x07, ffsSection(0x10, []byte("secure"))))
	}
	v.DXE = volume(DXEVolume, files...)
	return v
}

// Code packs the volumes into a code image.
func (v Volumes) Code() []byte {
	inner := append(ffsSection(0x19, []byte("pad")), ffsSection(0x17, v.PEI)...)
	inner = append(inner, ffsSection(0x17, v.DXE)...)
	var packed bytes.Buffer
	w, err := lzma.WriterConfig{DictCap: 1 << 16, Size: int64(len(inner)), SizeInHeader: true}.NewWriter(&packed)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write(inner); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	body := append(append([]byte(nil), lzmaGUID[:]...), 24, 0, 1, 0)
	return volume(gpt.GUID{15: 0xff}, ffsFile(gpt.GUID{15: 2}, 0x0b, ffsSection(0x02, append(body, packed.Bytes()...))))
}

// FirmwareCode makes a code image without Secure Boot.
func FirmwareCode() []byte { return FirmwareVolumes(false).Code() }

// UTF16 encodes text with a terminating zero.
func UTF16(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

func ffsSection(kind byte, body []byte) []byte {
	n := 4 + len(body)
	out := append([]byte{byte(n), byte(n >> 8), byte(n >> 16), kind}, body...)
	return append(out, make([]byte, align(len(out), 4)-len(out))...)
}

func ffsFile(name gpt.GUID, kind byte, sections ...[]byte) []byte {
	out := make([]byte, 24)
	copy(out, name[:])
	out[18] = kind
	for _, s := range sections {
		out = append(out, s...)
	}
	out[20], out[21], out[22] = byte(len(out)), byte(len(out)>>8), byte(len(out)>>16)
	return append(out, bytes.Repeat([]byte{0xff}, align(len(out), 8)-len(out))...)
}

// volume has a header, an extended header with its name, then the files.
func volume(name gpt.GUID, files ...[]byte) []byte {
	body := append(append([]byte(nil), name[:]...), 20, 0, 0, 0)
	body = append(body, make([]byte, 4)...) // the files begin aligned to 8
	for _, f := range files {
		body = append(body, f...)
	}
	out := append(volumeHeader(ffs2, 72+len(body)+64, 72), body...)
	return append(out, bytes.Repeat([]byte{0xff}, 64)...)
}

func volumeHeader(fs gpt.GUID, length, ext int) []byte {
	le := binary.LittleEndian
	h := make([]byte, 72)
	copy(h[16:], fs[:])
	le.PutUint64(h[32:], uint64(length))
	copy(h[40:], "_FVH")
	le.PutUint16(h[48:], 72)
	le.PutUint16(h[52:], uint16(ext))
	h[55] = 2
	sum := uint16(0)
	for i := 0; i < len(h); i += 2 {
		sum -= le.Uint16(h[i:])
	}
	le.PutUint16(h[50:], sum)
	return h
}

// Variable is a variable in a store; State 0 means valid.
type Variable struct {
	Vendor gpt.GUID
	Name   string
	Data   []byte
	State  byte
}

// FirmwareVariables makes a variable store.
func FirmwareVariables(variables ...Variable) []byte {
	le := binary.LittleEndian
	const size = 64 << 10
	out := append(volumeHeader(nvData, size, 0), authStore[:]...)
	out = le.AppendUint32(out, size-72)
	out = append(out, 0x5a, 0xfe, 0, 0, 0, 0, 0, 0)
	for _, v := range variables {
		name := UTF16(v.Name)
		h := make([]byte, 60)
		le.PutUint16(h, 0x55aa)
		h[2] = 0x3f
		if v.State != 0 {
			h[2] = v.State
		}
		le.PutUint32(h[36:], uint32(len(name)))
		le.PutUint32(h[40:], uint32(len(v.Data)))
		copy(h[44:], v.Vendor[:])
		out = append(append(append(out, h...), name...), v.Data...)
		for len(out)%4 != 0 {
			out = append(out, 0xff)
		}
	}
	return append(out, bytes.Repeat([]byte{0xff}, size-len(out))...)
}
