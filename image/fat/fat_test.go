// SPDX-License-Identifier: Apache-2.0

package fat

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/esp"
)

// memory is a disk in memory.
type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

const size = 64 << 20

func write(t *testing.T, offset int64, v Volume) memory {
	t.Helper()
	disk := make(memory, offset+v.Size)
	if err := v.Write(disk, offset); err != nil {
		t.Fatal(err)
	}
	return disk
}

// TestWriteIsReadable reads the file system with the parser that predicts what firmware sees.
func TestWriteIsReadable(t *testing.T) {
	content := map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI": bytes.Repeat([]byte("kernel"), 1_000_000),
		"EFI/BOOT/ONE.BIN":     bytes.Repeat([]byte{7}, SectorSize),
		"EMPTY":                {},
	}
	v := Volume{Size: size, ID: 0x12345678, Label: "ESP"}
	for name, data := range content {
		v.Files = append(v.Files, File{name, data})
	}
	const offset = 1 << 20
	disk := write(t, offset, v)
	fs, err := esp.Open(bytes.NewReader(disk[offset:]), size)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, file := range fs.Files {
		data, err := fs.ReadFile(file.Path)
		if err != nil {
			t.Fatalf("%s: %v", file.Path, err)
		}
		got[strings.ToUpper(file.Path)] = data
	}
	if !maps.EqualFunc(content, got, bytes.Equal) {
		t.Errorf("files are %v with other content or %v are missing", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(content)))
	}
}

func TestWriteIsAFunctionOfContent(t *testing.T) {
	a, b := File{"A", []byte("1")}, File{"DIR/B", []byte("2")}
	first := write(t, 0, Volume{Size: size, Files: []File{a, b}})
	second := write(t, 0, Volume{Size: size, Files: []File{b, a}})
	if !bytes.Equal(first, second) {
		t.Error("the order in which files are named changes the file system")
	}
}

// TestTables checks both allocation tables against each other and for being long enough.
func TestTables(t *testing.T) {
	disk := write(t, 0, Volume{Size: size, Files: []File{{"FILE", make([]byte, 3*SectorSize+1)}}})
	sectors := int(le.Uint32(disk[36:]))
	first := disk[reservedSectors*SectorSize:][:sectors*SectorSize]
	second := disk[(reservedSectors+sectors)*SectorSize:][:sectors*SectorSize]
	if !bytes.Equal(first, second) {
		t.Error("the two allocation tables differ")
	}
	clusters := size/SectorSize - reservedSectors - copies*sectors
	if have := sectors * SectorSize / 4; have < clusters+firstCluster {
		t.Errorf("a table has %d entries for %d clusters", have, clusters)
	}
	// Cluster 2 is the root directory, 3 to 6 the file's.
	var chain []uint32
	for i := range 8 {
		chain = append(chain, le.Uint32(first[4*i:]))
	}
	want := []uint32{0x0FFFFFF8, endOfChain, endOfChain, 4, 5, 6, endOfChain, 0}
	if diff := cmp.Diff(want, chain); diff != "" {
		t.Errorf("allocation differs (-want +got):\n%s", diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		volume       Volume
	}{
		{"too small for FAT32", "not one for FAT32", Volume{Size: 32 << 20}},
		{"odd size", "not one for FAT32", Volume{Size: size + 1}},
		{"too large", "not one for FAT32", Volume{Size: 4 << 30}},
		{"full", "files need", Volume{Size: size, Files: []File{{"A", make([]byte, size)}}}},
		{"long name", "8.3", Volume{Size: size, Files: []File{{"LONGNAMES.TXT", nil}}}},
		{"lower case", "8.3", Volume{Size: size, Files: []File{{"file", nil}}}},
		{"dots", "8.3", Volume{Size: size, Files: []File{{"../A", nil}}}},
		{"absolute", "8.3", Volume{Size: size, Files: []File{{"/A", nil}}}},
		{"same file twice", "twice", Volume{Size: size, Files: []File{{"A", nil}, {"A", nil}}}},
		{"file as directory", "twice", Volume{Size: size, Files: []File{{"A", nil}, {"A/B", nil}}}},
		{"label", "label", Volume{Size: size, Label: "a name that is long"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.volume.Write(memory{}, 0)
			if err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}
