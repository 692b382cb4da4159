// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// GUID is in on-disk order: the first three fields are little-endian (UEFI
// Specification 2.10, appendix A).
type GUID [16]byte

// String is the usual registry form, in lower case.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// ParseGUID reads the registry form, in either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("GUID %q is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	raw, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return g, fmt.Errorf("GUID %q: %w", s, err)
	}
	return FromUUID([16]byte(raw)), nil
}

// MustParseGUID is ParseGUID for constants; it panics on a malformed one.
func MustParseGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// FromUUID converts from the order in which a UUID is written (RFC 9562), as the
// Discoverable Partitions Specification takes it out of a verity root hash.
func FromUUID(u [16]byte) GUID {
	return GUID{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}

// Partition types (UEFI Specification 2.10, table 5.7; UAPI Group Discoverable
// Partitions Specification, for x86-64).
var (
	TypeESP        = MustParseGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	TypeRoot       = MustParseGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
	TypeRootVerity = MustParseGUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
)
