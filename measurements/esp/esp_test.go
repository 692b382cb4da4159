// SPDX-License-Identifier: Apache-2.0

package esp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/esp"
)

func TestOpen(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 1000)
	image := artifacttest.ESP(
		artifacttest.File{Path: "EFI/BOOT/BOOTX64.EFI", Content: big},
		artifacttest.File{Path: "EFI/BOOT/BOOTX64.EFI.extra.d/a rather long name.addon.efi", Content: []byte("x")},
		artifacttest.File{Path: "loader/empty", Content: nil},
	)
	fs, err := esp.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range fs.Files {
		paths = append(paths, f.Path)
	}
	want := []string{"EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTX64.EFI.extra.d/a rather long name.addon.efi", "loader/empty"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error("files (-want +got):", diff)
	}
	if got, err := fs.ReadFile("efi/boot/bootx64.efi"); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes of the boot program, %v; want %d", len(got), err, len(big))
	}
	if got, err := fs.ReadFile("loader/empty"); err != nil || len(got) != 0 {
		t.Errorf("%d bytes of the empty file, %v", len(got), err)
	}
	var e *esp.Error
	if _, err := fs.ReadFile("loader/other"); !errors.As(err, &e) || e.Reason != esp.ReasonMissing {
		t.Errorf("reading what is not there: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	le := binary.LittleEndian
	file := artifacttest.File{Path: "a.txt", Content: make([]byte, 2000)}
	const table, root = 512, 512 + 18*512
	const shortEntry = root + 32 // behind one long name entry
	change := func(f func(b []byte)) []byte { b := artifacttest.ESP(file); f(b); return b }
	tests := map[string]struct {
		image []byte
		want  esp.Reason
	}{
		"empty":                 {nil, esp.ReasonTruncated},
		"zeros":                 {make([]byte, 1<<19), esp.ReasonNotFAT},
		"cut":                   {artifacttest.ESP(file)[:1<<19], esp.ReasonTruncated},
		"sectors of 4096":       {change(func(b []byte) { le.PutUint16(b[11:], 4096) }), esp.ReasonNotFAT},
		"clusters of 3":         {change(func(b []byte) { b[13] = 3 }), esp.ReasonNotFAT},
		"three tables":          {change(func(b []byte) { b[16] = 3 }), esp.ReasonNotFAT},
		"FAT32's form":          {change(func(b []byte) { le.PutUint16(b[22:], 0); le.PutUint32(b[36:], 18) }), esp.ReasonNotFAT},
		"no root entries":       {change(func(b []byte) { le.PutUint16(b[17:], 0) }), esp.ReasonNotFAT},
		"FAT12":                 {change(func(b []byte) { b[13] = 64 }), esp.ReasonNotFAT},
		"table too short":       {change(func(b []byte) { le.PutUint16(b[22:], 3) }), esp.ReasonTruncated},
		"first cluster 0":       {change(func(b []byte) { le.PutUint16(b[shortEntry+26:], 0) }), esp.ReasonChain},
		"first cluster beyond":  {change(func(b []byte) { le.PutUint16(b[shortEntry+26:], 0xfff0) }), esp.ReasonChain},
		"chain ends early":      {change(func(b []byte) { le.PutUint16(b[table+4:], 0xffff) }), esp.ReasonChain},
		"file larger than disk": {change(func(b []byte) { le.PutUint32(b[shortEntry+28:], 1<<28) }), esp.ReasonChain},
		"file of 4 GiB":         {change(func(b []byte) { le.PutUint32(b[shortEntry+28:], 1<<32-1) }), esp.ReasonTooLarge},
		"directory loops": {change(func(b []byte) {
			b[shortEntry+11] = 0x10
			le.PutUint16(b[table+4:], 2) // its cluster follows itself
		}), esp.ReasonTooLarge},
		"directory in itself": {change(func(b []byte) {
			data := root + 512*32
			b[shortEntry+11] = 0x10
			for i := range 16 { // sixteen entries that all are the directory again
				copy(b[data+32*i:], b[shortEntry:shortEntry+32])
				b[data+32*i] = byte('A' + i)
			}
			le.PutUint16(b[table+4:], 0xffff)
		}), esp.ReasonTooLarge},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fs, err := esp.Open(bytes.NewReader(test.image), int64(len(test.image)))
			if err == nil {
				_, err = fs.ReadFile("a.txt")
			}
			var e *esp.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	// Only the metadata at the front is mutated, the rest stays.
	image := artifacttest.ESP(artifacttest.File{Path: "EFI/BOOT/BOOTX64.EFI", Content: []byte("x")}, artifacttest.File{Path: "a long name.txt", Content: []byte("y")})
	const root = 512 + 18*512
	f.Add(image[:64], image[512:600], image[root:root+256], image[root+512*32:root+512*34])
	f.Fuzz(func(t *testing.T, boot, table, rootDir, data []byte) {
		b := bytes.Clone(image)
		copy(b[:500], boot)
		copy(b[512:], table)
		copy(b[root:], rootDir)
		copy(b[root+512*32:], data)
		fs, err := esp.Open(bytes.NewReader(b), int64(len(b)))
		if err == nil && len(fs.Files) > 0 {
			_, err = fs.ReadFile(fs.Files[0].Path)
		}
		var e *esp.Error
		if err != nil && (!errors.As(err, &e) || e.Reason == "") {
			t.Fatalf("error without a reason: %v", err)
		}
	})
}
