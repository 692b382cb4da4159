// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// bootable makes a bootable image with a setup of two sectors, as the kernel's boot.rst describes it.
func bootable(t *testing.T, kernel string) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	payload := append(encoder.EncodeAll([]byte(kernel), nil), 0, 0, 0, 0) // its size, unused
	image := make([]byte, 3*512)
	image[0x1f1] = 2
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return slices.Concat(image, make([]byte, 16), payload, []byte("signature"))
}

func TestDecompress(t *testing.T) {
	got, err := decompress(bootable(t, "the kernel"))
	if err != nil || string(got) != "the kernel" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, test := range map[string]struct {
		change func(image []byte)
		want   string
	}{
		"not a kernel":       {func(image []byte) { image[0x202] = 0 }, "not a bootable kernel"},
		"payload outside":    {func(image []byte) { image[0x24f] = 1 }, "payload is not in the file"},
		"another compressor": {func(image []byte) { image[3*512+16] = 0 }, "must be packed with zstd"},
	} {
		image := bootable(t, "the kernel")
		test.change(image)
		if _, err := decompress(image); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestLowerInitrd(t *testing.T) {
	image := bootable(t, "the kernel")
	got, err := lowerInitrd(image)
	if err != nil {
		t.Fatal(err)
	}
	if limit := binary.LittleEndian.Uint32(got[0x22c:]); limit != 512<<20-1 {
		t.Errorf("the initrd's limit is %#x", limit)
	}
	if limit := binary.LittleEndian.Uint32(image[0x22c:]); limit != 0 {
		t.Error("the input was changed")
	}
	if _, err := lowerInitrd([]byte("short")); err == nil || !strings.Contains(err.Error(), "not a bootable kernel") {
		t.Errorf("no kernel: %v", err)
	}
}
