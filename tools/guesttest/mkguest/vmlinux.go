// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Fields of the setup header (the kernel's Documentation/arch/x86/boot.rst).
const (
	offsetSetupSectors  = 0x1f1
	offsetMagic         = 0x202
	offsetInitrdMax     = 0x22c
	offsetPayload       = 0x248
	offsetPayloadLength = 0x24c
	setupMagic          = "HdrS"
	maxKernel           = 256 << 20
	initrdMax           = 512<<20 - 1
)

// decompress takes the kernel proper, an ELF file, out of a bootable image. QEMU starts it through its PVH entry: the
// emulated processor, which takes 2.5 s to decompress a kernel, does not have to.
func decompress(image []byte) ([]byte, error) {
	if len(image) < offsetPayloadLength+4 || string(image[offsetMagic:][:4]) != setupMagic {
		return nil, errors.New("not a bootable kernel")
	}
	sectors := uint64(image[offsetSetupSectors])
	if sectors == 0 {
		sectors = 4
	}
	begin := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[offsetPayload:]))
	end := begin + uint64(binary.LittleEndian.Uint32(image[offsetPayloadLength:]))
	if end > uint64(len(image)) || begin > end {
		return nil, errors.New("the kernel's payload is not in the file")
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxKernel), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	// The last four bytes are the size, for the kernel's own decompressor.
	kernel, err := decoder.DecodeAll(image[begin:max(begin, end-4)], nil)
	if err != nil {
		return nil, fmt.Errorf("decompress the kernel, which must be packed with zstd: %w", err)
	}
	return kernel, nil
}

// lowerInitrd returns the bootable image with the demand that the initrd be loaded below 512 MiB. QEMU loads it below
// the top of memory, where SeaBIOS has put the ACPI tables and the TPM's log, and leaves room for the tables only.
// So a guest with a TPM takes the slower way and starts from this image.
func lowerInitrd(image []byte) ([]byte, error) {
	if len(image) < offsetInitrdMax+4 || string(image[offsetMagic:][:4]) != setupMagic {
		return nil, errors.New("not a bootable kernel")
	}
	image = bytes.Clone(image)
	binary.LittleEndian.PutUint32(image[offsetInitrdMax:], initrdMax)
	return image, nil
}
