// SPDX-License-Identifier: Apache-2.0

package tamper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements/gpt"
)

// Format of the authenticated variable store (edk2's
// MdeModulePkg/Include/Guid/VariableFormat.h).
const (
	storeHeaderSize = 28
	variableSize    = 60
	variableStart   = 0x55aa
	variableAdded   = 0x3f
)

var (
	storeGUID    = gpt.MustParseGUID("aaf32c78-947b-439a-a180-2e144ec37792")
	databaseGUID = gpt.MustParseGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	sha256GUID   = gpt.MustParseGUID("c1c41626-504c-4092-aca9-41f936934328")
)

// AddAllowedHash copies a variable store and adds to the copy a Secure Boot
// database, db, that allows one program's hash.
func AddAllowedHash(from, to string) error {
	store, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// EFI_SIGNATURE_LIST with one EFI_SIGNATURE_DATA (UEFI 2.10, section 32.4.1).
	var list bytes.Buffer
	list.Write(sha256GUID[:])
	for _, size := range []uint32{28 + 16 + 32, 0, 16 + 32} {
		_ = binary.Write(&list, binary.LittleEndian, size)
	}
	list.Write(make([]byte, 16)) // the owner
	list.Write(bytes.Repeat([]byte{0x42}, 32))
	const nonVolatileBootRuntimeTimeAuthenticated = 0x27
	if err := addVariable(store, "db", databaseGUID, nonVolatileBootRuntimeTimeAuthenticated, list.Bytes()); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, store, 0o600)
}

// addVariable appends a variable to the store, in place.
func addVariable(store []byte, name string, vendor gpt.GUID, attributes uint32, data []byte) error {
	at := bytes.Index(store, storeGUID[:])
	if at < 0 {
		return errors.New("no variable store")
	}
	at += storeHeaderSize
	for binary.LittleEndian.Uint16(store[at:]) == variableStart {
		nameSize := binary.LittleEndian.Uint32(store[at+36:])
		dataSize := binary.LittleEndian.Uint32(store[at+40:])
		at = align4(at + variableSize + int(nameSize) + int(dataSize))
	}
	var v bytes.Buffer
	encoded := append(utf16.Encode([]rune(name)), 0)
	for _, field := range []any{
		uint16(variableStart), uint8(variableAdded), uint8(0), attributes,
		uint64(0), [16]byte{0xea, 0x07, 1, 1}, uint32(0), // count, time (2026-01-01), key index
		uint32(2 * len(encoded)), uint32(len(data)), vendor, encoded, data,
	} {
		if err := binary.Write(&v, binary.LittleEndian, field); err != nil {
			return err
		}
	}
	if len(bytes.Trim(store[at:at+v.Len()], "\xff")) != 0 {
		return errors.New("no room behind the last variable")
	}
	copy(store[at:], v.Bytes())
	return nil
}
