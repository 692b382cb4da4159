// SPDX-License-Identifier: Apache-2.0

package ovmf

import (
	"encoding/binary"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements/gpt"
)

// The non-volatile storage (MdeModulePkg/Include/Guid/VariableFormat.h,
// SystemNvDataGuid.h).
var (
	nvData        = gpt.MustParseGUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
	authVariables = gpt.MustParseGUID("aaf32c78-947b-439a-a180-2e144ec37792")
)

// Format and state of a usable store.
const (
	storeFormatted = 0x5a
	storeHealthy   = 0xfe
)

// Variable states: bits are cleared as a variable ages.
const (
	variableStart      = 0x55aa
	variableHeaderSize = 60
	stateAdded         = 0x3f
	stateDeleting      = 0x3e // being replaced, still valid if nothing newer is
)

// maxVariables bounds a store.
const maxVariables = 4096

// GUIDs of variables that firmware measures (UEFI Specification 2.10, sections
// 3.3 and 32.6.1).
var (
	GlobalVariable   = gpt.MustParseGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	SecurityDatabase = gpt.MustParseGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
)

// Variable is one valid variable.
type Variable struct {
	Vendor gpt.GUID
	Name   string
	Data   []byte
}

// Variables are the valid variables of a store.
type Variables []Variable

// Get returns a variable's data and whether it exists.
func (v Variables) Get(vendor gpt.GUID, name string) ([]byte, bool) {
	for _, x := range v {
		if x.Vendor == vendor && x.Name == name {
			return x.Data, true
		}
	}
	return nil, false
}

// ParseVariables reads a variable store image (OVMF_VARS*.fd) as firmware finds
// it at power-on. An unfinished fault-tolerant write is not replayed: an image
// that firmware never wrote to has none.
func ParseVariables(flash []byte) (Variables, error) {
	le := binary.LittleEndian
	if len(flash) > MaxFlashSize {
		return nil, fail(ReasonTooLarge, "%d bytes of flash, at most %d", len(flash), MaxFlashSize)
	}
	if len(flash) < 72 {
		return nil, fail(ReasonTruncated, "variable store of %d bytes", len(flash))
	}
	header := int(le.Uint16(flash[48:]))
	if gpt.GUID(flash[16:32]) != nvData || string(flash[40:44]) != "_FVH" {
		return nil, fail(ReasonVariables, "no volume for variables")
	}
	if header < 72 || header+28 > len(flash) {
		return nil, fail(ReasonTruncated, "volume header of %d bytes", header)
	}
	store := flash[header:]
	size := le.Uint32(store[16:])
	if gpt.GUID(store[:16]) != authVariables || store[20] != storeFormatted || store[21] != storeHealthy {
		return nil, fail(ReasonVariables, "no healthy store of authenticated variables")
	}
	if size < 28 || uint64(size) > uint64(len(store)) {
		return nil, fail(ReasonTruncated, "store of %d bytes in %d", size, len(store))
	}
	return parseVariables(store[28:size])
}

func parseVariables(b []byte) (Variables, error) {
	le := binary.LittleEndian
	var added, deleting Variables
	for n, at := 0, 0; at+variableHeaderSize <= len(b) && le.Uint16(b[at:]) == variableStart; n++ {
		if n == maxVariables {
			return nil, fail(ReasonTooLarge, "more than %d variables", maxVariables)
		}
		h := b[at:]
		nameSize, dataSize := uint64(le.Uint32(h[36:])), uint64(le.Uint32(h[40:]))
		if nameSize%2 != 0 || variableHeaderSize+nameSize+dataSize > uint64(len(h)) {
			return nil, fail(ReasonVariables, "variable at %d: name of %d bytes, data of %d", at, nameSize, dataSize)
		}
		data := h[variableHeaderSize+nameSize:][:dataSize]
		v := Variable{gpt.GUID(h[44:60]), decodeName(h[variableHeaderSize:][:nameSize]), data}
		switch h[2] {
		case stateAdded:
			added = append(added, v)
		case stateDeleting:
			deleting = append(deleting, v)
		}
		at = (at + variableHeaderSize + int(nameSize+dataSize) + 3) &^ 3
	}
	for _, v := range deleting {
		if _, newer := added.Get(v.Vendor, v.Name); !newer {
			added = append(added, v)
		}
	}
	return added, nil
}

func decodeName(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
