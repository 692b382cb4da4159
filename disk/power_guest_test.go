// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// campaign checks every write also while files are written. Without, those are a sample; the writes of headers, of formatting
// and of growing are all checked always.
var campaign = flag.Bool("campaign", false, "check a power cut at every single write, which takes long")

// states calls check with what the disk holds when the power goes before write n, for chosen n.
func states(start *memory, log []written, chosen func(n int) bool, check func(n int, d *memory)) {
	d := start.snapshot()
	for n := 0; n <= len(log); n++ {
		if chosen(n) {
			check(n, d.snapshot())
		}
		if n < len(log) {
			if _, err := d.WriteAt(log[n].data, log[n].at); err != nil {
				panic(err)
			}
		}
	}
}

// sample chooses about count of total, the last always.
func sample(total, count int) func(int) bool {
	step := max(1, total/count)
	return func(n int) bool { return *campaign || n%step == 0 || n == total }
}

// TestV20PowerCutAtEveryWriteOfFormatting records all writes that formatting makes, those of the kernel and of mke2fs
// too: before the last the disk is fresh, after it there is a whole file system on it.
func TestV20PowerCutAtEveryWriteOfFormatting(t *testing.T) {
	s := serve(t, newMemory(small))
	key, uuid := formatted(t, s.path)
	log := s.log
	s.stop(t)
	states(newMemory(small), log, func(int) bool { return true }, func(n int, d *memory) {
		in, err := Inspect(d)
		want := Fresh
		if n == len(log) {
			want = Ours
		}
		if err != nil || in.Kind != want {
			t.Errorf("before write %d of %d the disk is %+v, %v", n, len(log), in, err)
		}
		if n == len(log) && in.UUID != uuid {
			t.Errorf("the disk is called %s, not %s", in.UUID, uuid)
		}
	})
	states(newMemory(small), log, func(n int) bool { return n == len(log) }, func(_ int, d *memory) {
		wantWhole(t, d, key, nil)
	})
	t.Logf("%d writes", len(log))
}

// wantWhole opens a disk and looks at its file system.
func wantWhole(t *testing.T, d *memory, key []byte, look func(folder string)) {
	t.Helper()
	s := serve(t, d)
	defer s.stop(t)
	volume, err := Open(t.Context(), s.path, key, Unwitnessed())
	if err != nil {
		t.Error(err)
		return
	}
	defer closed(t, volume)
	folder, unmount := mount(t, volume) // replays the file system's journal
	if look != nil {
		look(folder)
	}
	unmount()
	if out, err := exec.Command("e2fsck", "-fn", volume.Device).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
}

// TestV20PowerCutWhileFilesAreWritten: after a cut at any write the disk opens, its file system is whole, and what had
// been synchronised is there. Without dm-integrity's journal this fails.
func TestV20PowerCutWhileFilesAreWritten(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	start := s.copy()
	s.with(func() { s.log = nil })
	folder, unmount := mount(t, volume)
	content := random(64 << 10)
	var synchronised []int // number of writes after which the file of that number is safe
	for i := range 6 {
		file, err := os.Create(filepath.Join(folder, string(rune('a'+i))))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			t.Fatal(err)
		}
		s.with(func() { synchronised = append(synchronised, len(s.log)) })
		// Written in place again, as a database does.
		if i > 0 {
			overwrite(t, filepath.Join(folder, "a"), content)
		}
	}
	unmount()
	closed(t, volume)
	log := s.log
	s.stop(t)
	states(start, log, sample(len(log), 12), func(n int, d *memory) {
		wantWhole(t, d, key, func(folder string) {
			for i, safe := range synchronised {
				if n < safe {
					continue
				}
				if got, err := os.ReadFile(filepath.Join(folder, string(rune('a'+i)))); err != nil || !bytes.Equal(got, content) {
					t.Errorf("cut before write %d of %d: file %d, safe since write %d, is lost: %v", n, len(log), i, safe, err)
				}
			}
		})
	})
	t.Logf("%d writes", len(log))
}

func overwrite(t *testing.T, path string, content []byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(content[8192:16384], 8192); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fdatasync(int(file.Fd())); err != nil {
		t.Fatal(err)
	}
}

// TestV20PowerCutAtEveryWriteOfGrowing: a disk that its owner made larger gives a larger volume and file system, and after a
// cut at any write it opens, with a whole file system and what it held.
func TestV20PowerCutAtEveryWriteOfGrowing(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	folder, unmount := mount(t, volume)
	content := random(1 << 20)
	if err := os.WriteFile(filepath.Join(folder, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	unmount()
	closed(t, volume)
	start := s.copy()
	s.stop(t)

	start.size = 2 * small
	grown := serve(t, start.snapshot())
	larger := opened(t, grown.path, key, Unwitnessed())
	if larger.Size < volume.Size+small*9/10 {
		t.Errorf("the volume has %d bytes after %d were added to %d", larger.Size, small, volume.Size)
	}
	folder, unmount = mount(t, larger)
	if err := larger.Grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil || int64(stat.Blocks)*stat.Bsize < small*3/2 {
		t.Errorf("the file system has %d bytes, %v", int64(stat.Blocks)*stat.Bsize, err)
	}
	unmount()
	closed(t, larger)
	log := grown.log
	grown.stop(t)

	states(start, log, func(int) bool { return true }, func(n int, d *memory) {
		d.size = start.size
		wantWhole(t, d, key, func(folder string) {
			if got, err := os.ReadFile(filepath.Join(folder, "file")); err != nil || !bytes.Equal(got, content) {
				t.Errorf("cut before write %d of %d: the file is another, %v", n, len(log), err)
			}
		})
	})
	t.Logf("%d writes", len(log))
}
