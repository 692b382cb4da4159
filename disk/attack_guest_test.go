// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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

// TestV2PathChangesBetweenCheckAndOpen has the disk's name lead to another disk as soon as the header is read. The volume
// is made of the disk whose header was checked, and the other is not touched.
func TestV2PathChangesBetweenCheckAndOpen(t *testing.T) {
	other := scratch(t, "small")
	blank := make([]byte, luks2.SectorSize)
	writeFile(t, other, blank, luks2.DataOffset)
	s := serve(t, newMemory(small))
	defer s.stop(t)
	key, uuid := formatted(t, s.path)
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.Symlink(s.path, name); err != nil {
		t.Fatal(err)
	}
	changed := false
	s.with(func() {
		s.disk.answer = func([]byte, int64) {
			if !changed {
				changed = os.Remove(name) == nil && os.Symlink(other, name) == nil
			}
		}
	})
	dropCaches(t, s.path)
	volume := opened(t, name, key, newCluster())
	defer closed(t, volume)
	if link, err := os.Readlink(name); err != nil || link != other || !changed {
		t.Fatalf("the name still leads to %s, %v", link, err)
	}
	if volume.UUID != uuid {
		t.Errorf("opened %s, want %s", volume.UUID, uuid)
	}
	_, unmount := mount(t, volume)
	unmount()
	if !bytes.Equal(readFile(t, other, luks2.DataOffset+luks2.SectorSize)[luks2.DataOffset:], blank) {
		t.Error("the other disk was written to")
	}
}

func writeFile(t testing.TB, path string, content []byte, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|unix.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(content, at); err != nil {
		t.Fatal(err)
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
	if _, err := Open(t.Context(), s.path, key, Unwitnessed()); !errors.Is(err, ErrTooSmall) {
		t.Errorf("opening a disk that is gone, and has no bytes: %v", err)
	}
}
