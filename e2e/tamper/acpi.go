// SPDX-License-Identifier: Apache-2.0

package tamper

import "os"

// ACPITable writes a table body for QEMU's -acpitable: AML that defines one
// name. An operating system that loads the table runs it.
func ACPITable(path string) error {
	// NameOp, "EVIL", BytePrefix, 1 (ACPI 6.5, section 20.2.5.1).
	return os.WriteFile(path, []byte{0x08, 'E', 'V', 'I', 'L', 0x0a, 1}, 0o600)
}
