// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/luks2"
)

// small is the size of the disks that a test serves itself.
const small = MinSize

// TestV2HeaderChangesBetweenReads opens a disk whose owner answers each read of the header but the first with another
// state disk's header.
func TestV2HeaderChangesBetweenReads(t *testing.T) {
	s := serve(t, newMemory(small))
	defer s.stop(t)
	key, uuid := formatted(t, s.path)
	other := newPlain(t)
	reads := 0
	s.with(func() {
		s.disk.answer = func(data []byte, at int64) {
			if at >= luks2.AreaSize {
				return
			}
			if at == 0 {
				reads++
			}
			if reads > 1 {
				other.ReadAt(data, at)
			}
		}
	})
	dropCaches(t, s.path)
	volume := opened(t, s.path, key, newCluster())
	defer closed(t, volume)
	if volume.UUID != uuid {
		t.Errorf("opened %s, want %s", volume.UUID, uuid)
	}
	_, unmount := mount(t, volume) // with the other's volume key nothing could be mounted
	unmount()
}

// dropCaches makes the kernel forget what it has read of a device.
func dropCaches(t testing.TB, path string) {
	t.Helper()
	const flushBuffers = 0x1261 // BLKFLSBUF
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := ioctl(file, flushBuffers, 0); err != nil {
		t.Fatal(err)
	}
}

// TestBitFlipsAreReadErrors changes bits in each block that writing to the volume changed on the disk: data, tags and
// dm-integrity's own. Reading gives what was written, or an error.
func TestBitFlipsAreReadErrors(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	content := random(8 * luks2.SectorSize)
	const at = 100 << 20
	before := s.copy()
	writeVolume(t, volume, content, at)
	closed(t, volume)
	after := s.copy()
	s.stop(t)

	var changed []int64
	for page, data := range after.pages {
		if page >= luks2.DataOffset/pageSize && before.pages[page] != data {
			changed = append(changed, page)
		}
	}
	slices.Sort(changed)
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
		case err != nil:
			refused++
		case !bytes.Equal(got, content):
			t.Errorf("block %d: wrong data was read", page)
		}
	}
	if refused <= len(content)/luks2.SectorSize {
		t.Errorf("of %d changed blocks %d were noticed, want the %d blocks of data and those of their tags", blocks, refused, len(content)/luks2.SectorSize)
	}
	t.Logf("writing changed %d blocks; of %d with bits flipped, %d made reading fail", len(changed), blocks, refused)
}

func (s *served) copy() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk.snapshot()
}

func writeVolume(t testing.TB, volume *Volume, content []byte, at int64) {
	t.Helper()
	file, err := os.OpenFile(volume.Device, os.O_WRONLY|unix.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(content, at); err != nil {
		t.Fatal(err)
	}
}

// readBack reads from the volume of a disk. Opening it may fail, too.
func readBack(t testing.TB, disk *memory, key []byte, size int, at int64) ([]byte, error) {
	t.Helper()
	s := serve(t, disk)
	defer s.stop(t)
	volume, err := Open(t.Context(), s.path, key, Unwitnessed())
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
	writeVolume(t, volume, random(luks2.SectorSize), 150<<20)
	closed(t, volume)
	key, _ = formatted(t, s.path)
	used := s.copy()
	s.stop(t)
	for _, at := range []int64{150 << 20, 160 << 20} {
		if _, err := readBack(t, used, key, luks2.SectorSize, at); !errors.Is(err, unix.EILSEQ) && !errors.Is(err, unix.EIO) {
			t.Errorf("a sector that was never written, at %d MiB: %v", at>>20, err)
		}
	}
}

// TestV1DisksOfCryptsetup gives disks that stock cryptsetup made, one with our label, to whoever holds their key.
func TestV1DisksOfCryptsetup(t *testing.T) {
	path := scratch(t, "small")
	key := newKey()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"luksFormat", "--batch-mode", "--type", "luks2", "--key-file", file, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	for _, test := range []struct {
		name   string
		args   []string
		reason luks2.Reason
		kind   Kind
	}{
		{"a LUKS disk", nil, luks2.ReasonForeign, Foreign},
		{"with our label", []string{"--label", luks2.Label}, luks2.ReasonIntegrity, Damaged},
		{"with our label and the null cipher", []string{"--label", luks2.Label, "--cipher", "cipher_null-ecb", "--key-size", "256"}, luks2.ReasonCipher, Damaged},
		{"with our label, cipher and authentication", []string{
			"--label", luks2.Label, "--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096",
			"--integrity", "hmac-sha256", "--integrity-no-wipe",
		}, luks2.ReasonTokens, Damaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			if out, err := exec.Command("cryptsetup", append(append(base, test.args...), path)...).CombinedOutput(); err != nil {
				t.Fatalf("cryptsetup: %v: %s", err, out)
			}
			before := readFile(t, path, luks2.AreaSize)
			if _, err := Open(t.Context(), path, key, Unwitnessed()); luks2.ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
			device, err := OpenDevice(path)
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			if in, err := Inspect(device); err != nil || in.Kind != test.kind {
				t.Errorf("it is %+v, %v", in, err)
			}
			if err := Format(t.Context(), path, FormatOptions{UUID: NewUUID(), Key: key}); !errors.Is(err, ErrHoldsSomething) {
				t.Errorf("formatting it: %v", err)
			}
			if !bytes.Equal(before, readFile(t, path, luks2.AreaSize)) {
				t.Error("the disk was written to")
			}
		})
	}
}

func readFile(t testing.TB, path string, size int) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := make([]byte, size)
	if _, err := file.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDiskTooSmall(t *testing.T) {
	s := serve(t, newMemory(MinSize-(1<<20)))
	defer s.stop(t)
	if err := Format(t.Context(), s.path, FormatOptions{UUID: NewUUID(), Key: newKey()}); !errors.Is(err, ErrTooSmall) {
		t.Errorf("got %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	path := scratch(t, "small")
	key, _ := formatted(t, path)
	volume := opened(t, path, key, Unwitnessed())
	folder, unmount := mount(t, volume)
	file, err := os.Create(filepath.Join(folder, "large"))
	if err != nil {
		t.Fatal(err)
	}
	block := random(1 << 20)
	for err == nil {
		_, err = file.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing until it is full: %v", err)
	}
	file.Close()
	unmount()
	closed(t, volume)
	volume = opened(t, path, key, Unwitnessed())
	defer closed(t, volume)
	folder, unmount = mount(t, volume)
	defer unmount()
	if err := os.Remove(filepath.Join(folder, "large")); err != nil {
		t.Error(err)
	}
}

// TestDiskRemovedWhileOpen takes the disk away: what uses it gets errors, and the volume can be closed.
func TestDiskRemovedWhileOpen(t *testing.T) {
	s := serve(t, newMemory(small))
	key, _ := formatted(t, s.path)
	volume := opened(t, s.path, key, Unwitnessed())
	folder := t.TempDir()
	if err := unix.Mount(volume.Device, folder, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	s.with(func() { s.broken = true })
	err := os.WriteFile(filepath.Join(folder, "file"), []byte("x"), 0o600)
	if err == nil {
		var dir *os.File
		if dir, err = os.Open(folder); err == nil {
			err = unix.Syncfs(int(dir.Fd()))
			dir.Close()
		}
	}
	if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a disk that is gone: %v", err)
	}
	if err := unix.Unmount(folder, 0); err != nil {
		t.Error(err)
	}
	closed(t, volume)
	s.stop(t)
	if _, err := Open(t.Context(), s.path, key, Unwitnessed()); err == nil || !strings.Contains(err.Error(), "/dev/nbd0") && !errors.Is(err, unix.EIO) && !errors.Is(err, ErrNotOurs) {
		t.Errorf("opening a disk that is gone: %v", err)
	}
}
