// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestGroupsWithACopyOfTheSuperblock(t *testing.T) {
	var got []int64
	for group := range int64(350) {
		if group > 0 && hasSuperblock(group) {
			got = append(got, group)
		}
	}
	// The kernel's Documentation/filesystems/ext4/blockgroup.rst: 1 and the powers of 3, 5 and 7.
	want := []int64{1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFileSystemSize(t *testing.T) {
	super := make([]byte, 4096)
	super[1024+0x38], super[1024+0x39] = 0x53, 0xef
	super[1024+0x5] = 1   // 256 blocks
	super[1024+0x150] = 2 // and 2^33
	super[1024+0xce] = 0xf
	if got, reserved, err := fileSystemSize(bytes.NewReader(super)); err != nil || got != (256+(2<<32))*4096 || reserved != 15 {
		t.Errorf("got %d, %d, %v", got, reserved, err)
	}
	if _, _, err := fileSystemSize(bytes.NewReader(make([]byte, 4096))); err == nil || !strings.Contains(err.Error(), "no file system") {
		t.Errorf("a volume of zeros: %v", err)
	}
	if _, _, err := fileSystemSize(bytes.NewReader(nil)); err == nil || !strings.Contains(err.Error(), "read the file system's superblock") {
		t.Errorf("a volume that cannot be read: %v", err)
	}
}

func TestFileSystemJournal(t *testing.T) {
	for volume, want := range map[int64]int64{MinSize: 32, 6 << 30: 48, 100 << 30: 64} {
		if got := fileSystemJournal(volume); got != want {
			t.Errorf("of %d MiB: %d MiB, want %d", volume>>20, got, want)
		}
	}
}

func TestUUIDOf(t *testing.T) {
	if got, err := uuidOf("CRYPT-LUKS2-0123456789abcdef0123456789abcdef-state"); got != "01234567-89ab-cdef-0123-456789abcdef" || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	for _, name := range []string{"", "CRYPT-VERITY-0123456789abcdef0123456789abcdef-root", "CRYPT-LUKS2-0123-state"} {
		if _, err := uuidOf(name); err == nil || !strings.Contains(err.Error(), "is not a state disk's") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// cleared records which blocks are written.
type cleared map[int64]bool

func (c cleared) WriteAt(p []byte, at int64) (int, error) {
	for begin := at; begin < at+int64(len(p)); begin += pageSize {
		c[begin] = true
	}
	return len(p), nil
}

func (cleared) Sync() error { return nil }

// TestGrowthTouchesNothingInUse looks at where zeros are written.
func TestGrowthTouchesNothingInUse(t *testing.T) {
	const used, size, reserved = 237 << 20, 640 << 20, 31
	got := cleared{}
	if err := clearForGrowth(got, used, size, reserved); err != nil {
		t.Fatal(err)
	}
	for at := range got {
		if at < 256<<20 || at >= size {
			t.Fatalf("the block at %d was cleared", at)
		}
	}
	for _, want := range []struct {
		at      int64
		cleared bool
	}{
		{256 << 20, true}, {256<<20 + 63*4096, true}, {256<<20 + 64*4096, false}, // group 2: bitmaps
		{384 << 20, true}, {384<<20 + (1+1+31+63)*4096, true}, {384<<20 + (1+1+31+64)*4096, false}, // group 3: more before
		{512 << 20, true}, {size - 4096, true}, {size - 8192, false},
	} {
		if got[want.at] != want.cleared {
			t.Errorf("the block at %d: cleared %v, want %v", want.at, !want.cleared, want.cleared)
		}
	}
}
