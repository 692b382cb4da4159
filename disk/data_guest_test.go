// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/luks2"
)

// TestBitFlipsAreReadErrors changes bits in each block that writing to the volume changed on the disk: data, tags and
// dm-integrity's own. Reading gives what was written, or an error.
func TestBitFlipsAreReadErrors(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	content := random(8 * luks2.SectorSize)
	const at = 100 << 20
	before := s.copy()
	writeFile(t, volume.Device, content, at)
	closed(t, volume)
	after := s.copy()
	s.stop(t)

	changed := changes(before, after)
	slices.Reverse(changed) // data and tags lie behind dm-integrity's journal
	refused, blocks := 0, 0
	for _, page := range changed {
		if blocks++; blocks > 16 && !*campaign {
			break
		}
		data := after.pages[page]
		flipped := after.snapshot()
		bad := *data
		for i := 5; i < len(bad); i += 32 { // a tag has 32 bytes
			bad[i] ^= 4
		}
		flipped.pages[page] = &bad
		got, err := readBack(t, flipped, key, len(content), at)
		switch {
		case unreadable(err), page == luks2.DataOffset/pageSize && err != nil: // dm-integrity's superblock: it does not open
			refused++
		case err != nil:
			t.Errorf("block %d: %v", page, err)
		case !bytes.Equal(got, content):
			t.Errorf("block %d: wrong data was read", page)
		}
	}
	if refused <= len(content)/luks2.SectorSize {
		t.Errorf("of %d changed blocks %d were noticed, want the %d blocks of data and those of their tags", blocks, refused, len(content)/luks2.SectorSize)
	}
	t.Logf("writing changed %d blocks; of %d with bits flipped, %d made reading fail", len(changed), blocks, refused)
}

// changes are the blocks of the data area in which two disks differ.
func changes(before, after *memory) []int64 {
	var changed []int64
	for page, data := range after.pages {
		if page >= luks2.DataOffset/pageSize && before.pages[page] != data {
			changed = append(changed, page)
		}
	}
	slices.Sort(changed)
	return changed
}

// unreadable says whether it is the error of a sector that is not authentic.
func unreadable(err error) bool { return errors.Is(err, unix.EILSEQ) || errors.Is(err, unix.EIO) }

func (s *served) copy() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk.snapshot()
}

// readBack reads from the volume of a disk. Opening it may fail, too.
func readBack(t testing.TB, disk *memory, key []byte, size int, at int64) ([]byte, error) {
	t.Helper()
	return readWith(t, disk, key, Unwitnessed(), size, at)
}

func readWith(t testing.TB, disk *memory, key []byte, w Witness, size int, at int64) ([]byte, error) {
	t.Helper()
	s := serve(t, disk)
	defer s.stop(t)
	volume, err := Open(t.Context(), s.path, key, w)
	if err != nil {
		return nil, err
	}
	defer closed(t, volume)
	file, err := os.Open(volume.Device)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := make([]byte, size)
	_, err = file.ReadAt(data, at)
	return data, err
}

// TestNeverWrittenSectorsCannotBeRead: after formatting, neither old data nor zeros that nobody wrote are returned.
func TestNeverWrittenSectorsCannotBeRead(t *testing.T) {
	disk := newMemory(small)
	s := serve(t, disk)
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	writeFile(t, volume.Device, random(luks2.SectorSize), 150<<20)
	closed(t, volume)
	key, _ = formatted(t, s.path)
	used := s.copy()
	s.stop(t)
	for _, at := range []int64{150 << 20, 160 << 20} {
		if _, err := readBack(t, used, key, luks2.SectorSize, at); !unreadable(err) {
			t.Errorf("a sector that was never written, at %d MiB: %v", at>>20, err)
		}
	}
}

// TestExchangedSectorsAreReadErrors puts two sectors, each with its tag, in each other's places: a tag is for one place.
func TestExchangedSectorsAreReadErrors(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	// dm-integrity keeps the tags of each 16 MiB before them. These two lie alike in theirs.
	const first, second = 100 << 20, 132 << 20
	content := random(luks2.SectorSize)
	before := s.copy()
	writeFile(t, volume.Device, content, first)
	writeFile(t, volume.Device, random(luks2.SectorSize), second)
	closed(t, volume)
	after := s.copy()
	s.stop(t)

	changed := changes(before, after)
	if len(changed) < 4 {
		t.Fatalf("writing changed the blocks %v only", changed)
	}
	if got, err := readBack(t, after, key, len(content), first); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("before the exchange: %v", err)
	}
	// Behind the journal lie the tag and the data of the first, and of the second.
	places := changed[len(changed)-4:]
	exchanged := after.snapshot()
	for i := range 2 {
		exchanged.pages[places[i]], exchanged.pages[places[i+2]] = after.pages[places[i+2]], after.pages[places[i]]
	}
	for _, at := range []int64{first, second} {
		if _, err := readBack(t, exchanged, key, len(content), at); !unreadable(err) {
			t.Errorf("at %d MiB another sector's content was read: %v", at>>20, err)
		}
	}
}

// TestForgedSuperblocksGiveNoWrongData changes what dm-integrity reads from the disk about itself, and nobody
// authenticates (struct superblock of the kernel's drivers/md/dm-integrity.c): the volume does not open, or sectors cannot
// be read, or are what was written.
func TestForgedSuperblocksGiveNoWrongData(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	const at = 100 << 20
	content := random(luks2.SectorSize)
	writeFile(t, volume.Device, content, at)
	closed(t, volume)
	whole := s.copy()
	s.stop(t)

	const page = luks2.DataOffset / pageSize
	good := whole.pages[page]
	if !bytes.HasPrefix(good[:], []byte("integrt\x00")) {
		t.Fatalf("dm-integrity's superblock is not at %d: %q", luks2.DataOffset, good[:8])
	}
	outcomes := map[string]int{}
	for _, forged := range []struct {
		name  string
		at    int
		value []byte
	}{
		{"none at all", 0, make([]byte, 64)},
		{"another magic", 0, []byte("integrT")},
		{"an older version", 8, []byte{1}},
		{"a version that does not exist", 8, []byte{255}},
		{"smaller runs", 9, []byte{10}},
		{"runs of more than a disk", 9, []byte{40}},
		{"smaller tags", 10, []byte{16, 0}},
		{"no tags", 10, []byte{0, 0}},
		{"no journal", 12, []byte{0, 0, 0, 0}},
		{"a short journal", 12, []byte{1, 0, 0, 0}},
		{"a journal beyond the disk", 12, []byte{255, 255, 255, 127}},
		{"fewer sectors", 16, []byte{0, 0, 1, 0, 0, 0, 0, 0}},
		{"more sectors than there are", 16, []byte{255, 255, 255, 255, 255, 0, 0, 0}},
		{"a MAC of the journal", 24, []byte{good[24] | 1}},
		{"tags to be made anew", 24, []byte{good[24] | 2}},
		{"a bitmap", 24, []byte{good[24] | 4}},
		{"no fixed padding", 24, []byte{good[24] &^ 8}},
		{"tags inside of sectors", 24, []byte{good[24] | 32}},
		{"smaller blocks", 28, []byte{0}},
		{"blocks of more than a page", 28, []byte{9}},
	} {
		bad := *good
		copy(bad[forged.at:], forged.value)
		d := whole.snapshot()
		d.pages[page] = &bad
		got, err := readBack(t, d, key, len(content), at)
		outcome := "does not open"
		switch {
		case err == nil && !bytes.Equal(got, content):
			t.Errorf("%s: wrong data was read", forged.name)
		case err == nil:
			outcome = "is read as it was written"
		case unreadable(err):
			outcome = "cannot be read"
		case errors.Is(err, io.EOF):
			outcome = "ends before"
		}
		outcomes[outcome]++
		t.Logf("%s: %s", forged.name, outcome)
	}
	if len(outcomes) < 2 {
		t.Errorf("all forgeries have the same outcome: %v", outcomes)
	}
}

// TestLimitOlderDataUnderTheNewestHeader shows what the generation does not cover: it is in the header, and sectors are
// authenticated one by one. Whoever puts back a whole older disk is noticed; whoever keeps the newest header is not.
func TestLimitOlderDataUnderTheNewestHeader(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	witness := newCluster()
	const at = 100 << 20
	older, newer := random(luks2.SectorSize), random(luks2.SectorSize)
	var copies []*memory
	for _, content := range [][]byte{older, newer} {
		volume := opened(t, s.path, key, witness)
		writeFile(t, volume.Device, content, at)
		closed(t, volume)
		copies = append(copies, s.copy())
	}
	s.stop(t)

	mixed := copies[0].snapshot()
	for page := range int64(luks2.DataOffset / pageSize) {
		delete(mixed.pages, page)
		if data := copies[1].pages[page]; data != nil {
			mixed.pages[page] = data
		}
	}
	var rollback *RollbackError
	if _, err := readWith(t, copies[0], key, witness, len(older), at); !errors.As(err, &rollback) {
		t.Errorf("an older copy of the whole disk: %v", err)
	}
	if got, err := readWith(t, mixed, key, witness, len(older), at); err != nil || !bytes.Equal(got, older) {
		t.Errorf("older data under the newest header is noticed now (%v): mend docs/state-disk.md, which says that it is not", err)
	}
}
