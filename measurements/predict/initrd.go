// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"fmt"
	"strings"

	"github.com/constellation-os/constellation/measurements/pe"
)

// loadedInitrd is the initrd as systemd-stub hands it to the kernel, in pieces:
// microcode, the UKI's initrd, then archives that the stub makes of other
// sections (src/boot/stub.c, generate_embedded_initrds and combine_initrds).
// Several are padded to four bytes each; a single one is handed over as it is.
func loadedInitrd(uki *pe.UKI) [][]byte {
	var all [][]byte
	for _, name := range []string{".ucode", ".initrd"} {
		if content, _ := uki.Section(name); len(content) > 0 {
			all = append(all, content)
		}
	}
	for _, e := range []struct{ section, file string }{
		{".pcrsig", "tpm2-pcr-signature.json"},
		{".pcrpkey", "tpm2-pcr-public-key.pem"},
		{".osrel", "os-release"},
	} {
		if content, ok := uki.Section(e.section); ok {
			all = append(all, extraArchive(e.file, content))
		}
	}
	if len(all) < 2 {
		return all
	}
	var out [][]byte
	for _, piece := range all {
		out = append(out, piece, make([]byte, -len(piece)&3))
	}
	return out
}

// extraArchive is the cpio archive (format "newc") that the stub makes of one
// file below /.extra (src/boot/cpio.c, pack_cpio_literal).
func extraArchive(name string, content []byte) []byte {
	const dir = ".extra"
	a := cpioEntry(nil, 1, 0o040555, dir, nil)
	a = cpioEntry(a, 2, 0o100444, dir+"/"+name, content)
	// The trailer's name length is in upper case, all other numbers in lower.
	return append(a, "070701"+strings.Repeat("00000000", 4)+"00000001"+strings.Repeat("00000000", 6)+
		"0000000B"+"00000000"+"TRAILER!!!\x00\x00\x00\x00"...)
}

func cpioEntry(a []byte, inode, mode int, name string, content []byte) []byte {
	a = fmt.Appendf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a = append(a, name...)
	a = append(a, 0)
	a = append(a, make([]byte, -len(a)&3)...)
	a = append(a, content...)
	return append(a, make([]byte, -len(a)&3)...)
}
