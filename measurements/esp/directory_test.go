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

func paths(fs *esp.FS) (out []string) {
	for _, f := range fs.Files {
		out = append(out, f.Path)
	}
	return out
}

func wantReason(t *testing.T, image []byte, want esp.Reason) {
	t.Helper()
	_, err := esp.Open(bytes.NewReader(image), int64(len(image)))
	var e *esp.Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("got %v, want reason %s", err, want)
	}
}

// Long names of one, of exactly one and of several parts.
func TestLongNames(t *testing.T) {
	want := []string{"a.txt", "a name of 13x", "exactly 13.tx", "exactly 26 characters.text", "27 characters with its .tex"}
	var files []artifacttest.File
	for _, name := range want {
		files = append(files, artifacttest.File{Path: name})
	}
	image := artifacttest.ESP(files...)
	fs, err := esp.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, paths(fs)); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

// Firmware ignores a long name that is not whole and shows the short one; other
// readers take what there is.
func TestLongNamesRefused(t *testing.T) {
	const root = 512 + 18*512
	const long, short = root, root + 32
	for name, change := range map[string]func(b []byte){
		"of another entry":            func(b []byte) { b[long+13]++ },
		"of an entry that changed":    func(b []byte) { b[short]++ },
		"a part is missing":           func(b []byte) { b[long] = 0x42 },
		"no part 0":                   func(b []byte) { b[long] = 0x40 },
		"too many parts":              func(b []byte) { b[long] = 0x40 | 21 },
		"the last part is missing":    func(b []byte) { b[long] = 0x01 },
		"of a deleted entry":          func(b []byte) { b[short] = 0xe5 },
		"of the volume's label":       func(b []byte) { b[short+11] = 0x08 },
		"at the end of the directory": func(b []byte) { b[short] = 0 },
		"two for one entry": func(b []byte) {
			copy(b[short+32:], b[short:short+32])
			copy(b[short:short+32], b[long:])
		},
		"of another type":           func(b []byte) { b[long+12] = 1 },
		"with a cluster":            func(b []byte) { b[long+26] = 1 },
		"text behind its end":       func(b []byte) { b[long+3], b[long+4] = 0, 0 },
		"nothing in it":             func(b []byte) { b[long+1], b[long+2] = 0, 0 },
		"a slash":                   func(b []byte) { b[long+3] = '/' },
		"a backslash":               func(b []byte) { b[long+3] = '\\' },
		"a control character":       func(b []byte) { b[long+3] = 0x1b },
		"another letter":            func(b []byte) { b[long+3] = 0xe4 },
		"a letter that folds":       func(b []byte) { binary.LittleEndian.PutUint16(b[long+3:], 0x212a) },
		"a blank at the end":        func(b []byte) { b[long+9] = ' ' },
		"a dot at the end":          func(b []byte) { b[long+9] = '.' },
		"a slash in the short name": func(b []byte) { copy(b[long:], append([]byte("A/B     TXT"), b[short+11:short+32]...)); b[short] = 0 },
		"lower case in the short":   func(b []byte) { copy(b[long:], append([]byte("a       TXT"), b[short+11:short+32]...)); b[short] = 0 },
		"a blank in the short name": func(b []byte) { copy(b[long:], append([]byte("A B     TXT"), b[short+11:short+32]...)); b[short] = 0 },
		"no short name":             func(b []byte) { copy(b[long:], append([]byte("        TXT"), b[short+11:short+32]...)); b[short] = 0 },
		"an unknown attribute":      func(b []byte) { b[short+11] |= 0x40 },
		"the root above the root":   func(b []byte) { copy(b[long:], append([]byte("..         \x10"), make([]byte, 20)...)); b[short] = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			image := artifacttest.ESP(artifacttest.File{Path: "a.txt", Content: []byte("x")})
			change(image)
			wantReason(t, image, esp.ReasonName)
		})
	}
	t.Run("a part that is short, but not the last", func(t *testing.T) {
		image := artifacttest.ESP(artifacttest.File{Path: "a name of two parts.txt"})
		const second = root + 32 // stored behind the last part
		image[second+30], image[second+31] = 0, 0
		wantReason(t, image, esp.ReasonName)
	})
	t.Run("parts in another order", func(t *testing.T) {
		image := artifacttest.ESP(artifacttest.File{Path: "a name that has three parts for itself"})
		image[root+32], image[root+64] = image[root+64], image[root+32]
		wantReason(t, image, esp.ReasonName)
	})
}

// The dot entries that every directory has are no files.
func TestDotEntries(t *testing.T) {
	image := artifacttest.ESP(artifacttest.File{Path: "EFI/a.txt", Content: []byte("x")})
	const data = 512 + 18*512 + 512*32
	dir := bytes.Index(image[data:], []byte("A       TXT")) + data - 32
	moved := bytes.Clone(image[dir : dir+64])
	copy(image[dir:], append([]byte(".          \x10"), make([]byte, 20)...))
	copy(image[dir+32:], append([]byte("..         \x10"), make([]byte, 20)...))
	copy(image[dir+64:], moved)
	fs, err := esp.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"EFI/a.txt"}, paths(fs)); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

// Which of two equal names is opened is up to the reader.
func TestDuplicatesRefused(t *testing.T) {
	file := func(path string) artifacttest.File { return artifacttest.File{Path: path, Content: []byte("x")} }
	alias := artifacttest.ESP(file("a.txt"), file("b.txt"))
	const root = 512 + 18*512
	copy(alias[root+96:root+107], alias[root+32:]) // the short name of the second
	alias[root+64+13] = alias[root+13]
	for name, image := range map[string][]byte{
		"the same name":             artifacttest.ESP(file("a.txt"), file("a.txt")),
		"in another case":           artifacttest.ESP(file("a.txt"), file("A.TXT")),
		"a file and a directory":    artifacttest.ESP(file("efi"), file("EFI/BOOT/BOOTX64.EFI")),
		"deeper":                    artifacttest.ESP(file("EFI/a.txt"), file("EFI/A.txt")),
		"a short name":              alias,
		"a long and a short name":   artifacttest.ESP(file("a long name.txt"), file("ALO~0")),
		"a directory of that name":  artifacttest.ESP(file("EFI/a"), file("efi/b")),
		"the short one comes first": artifacttest.ESP(file("ALO~64"), file("a long name.txt")),
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, image, esp.ReasonDuplicate) })
	}
}

// fat32 is the front of a FAT32 file system with one file; the rest is zeros.
func fat32() []byte {
	const reserved, fatSectors, clusters = 32, 516, 66000
	le := binary.LittleEndian
	b := make([]byte, (reserved+fatSectors+clusters)*512)
	le.PutUint16(b[11:], 512)
	b[13], b[16] = 1, 1
	le.PutUint16(b[14:], reserved)
	le.PutUint32(b[32:], uint32(len(b)/512))
	le.PutUint32(b[36:], fatSectors)
	le.PutUint32(b[44:], 2)
	b[510], b[511] = 0x55, 0xaa
	table := b[reserved*512:]
	le.PutUint32(table[8:], 0x0fffffff)
	le.PutUint32(table[12:], 0x0fffffff)
	root := b[(reserved+fatSectors)*512:]
	copy(root, "A       TXT\x20")
	root[26], root[28] = 3, 1
	root[512] = 'x'
	return b
}

func TestFAT32(t *testing.T) {
	image := fat32()
	fs, err := esp.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fs.ReadFile("a.txt"); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	for name, change := range map[string]func(b []byte){
		"FAT16's size of the table": func(b []byte) { binary.LittleEndian.PutUint16(b[22:], 516) },
		"root entries":              func(b []byte) { b[17] = 16 },
		"tables that differ":        func(b []byte) { b[40] = 0x81 },
		"another version":           func(b []byte) { b[42] = 1 },
		"FAT16's clusters":          func(b []byte) { binary.LittleEndian.PutUint32(b[32:], 60000) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(image)
			change(b)
			wantReason(t, b, esp.ReasonNotFAT)
		})
	}
}
