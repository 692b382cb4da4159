// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/tools/guesttest"
)

func scratch(t testing.TB, name string) string {
	t.Helper()
	path, err := guesttest.Disk(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return key
}

// formatted formats a disk and returns its key and name.
func formatted(t testing.TB, path string) (key []byte, uuid string) {
	t.Helper()
	key, uuid = newKey(), NewUUID()
	if err := Format(t.Context(), path, FormatOptions{UUID: uuid, Key: key, Take: true}); err != nil {
		t.Fatal(err)
	}
	return key, uuid
}

func opened(t testing.TB, path string, key []byte, w Witness) *Volume {
	t.Helper()
	volume, err := Open(t.Context(), path, key, w)
	if err != nil {
		t.Fatal(err)
	}
	return volume
}

func mount(t testing.TB, volume *Volume) (folder string, unmount func()) {
	t.Helper()
	folder = t.TempDir()
	if err := unix.Mount(volume.Device, folder, "ext4", unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		t.Fatal(err)
	}
	return folder, func() {
		if err := unix.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	}
}

func closed(t testing.TB, volume *Volume) {
	t.Helper()
	if err := volume.Close(); err != nil {
		t.Error(err)
	}
}

func TestFormatOpenKeepsData(t *testing.T) {
	path := scratch(t, "large")
	begin := time.Now()
	key, uuid := formatted(t, path)
	t.Logf("format took %v", time.Since(begin))
	begin = time.Now()
	volume := opened(t, path, key, Unwitnessed())
	folder, unmount := mount(t, volume)
	t.Logf("open and mount took %v: %+v", time.Since(begin), volume)
	content := make([]byte, 3<<20)
	rand.Read(content)
	if err := os.WriteFile(filepath.Join(folder, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if current, err := Current(); err != nil || *current != *volume {
		t.Errorf("the open volume is %+v, %v", current, err)
	}
	if _, err := Open(t.Context(), path, key, Unwitnessed()); err != ErrActive {
		t.Errorf("opening twice: %v", err)
	}
	if err := Format(t.Context(), path, FormatOptions{UUID: NewUUID(), Key: key, Take: true}); err != ErrActive {
		t.Errorf("formatting an open disk: %v", err)
	}
	next := newKey()
	rekeyed(t, path, key, next)
	unmount()
	closed(t, volume)
	if current, err := Current(); err != nil || current != nil {
		t.Errorf("a closed volume is %+v, %v", current, err)
	}
	if _, err := Open(t.Context(), path, key, Unwitnessed()); luks2.ReasonOf(err) != luks2.ReasonUnauthentic {
		t.Errorf("opening with the key that was replaced: %v", err)
	}
	volume = opened(t, path, next, Unwitnessed())
	defer closed(t, volume)
	if volume.UUID != uuid {
		t.Errorf("the disk is called %s, not %s", volume.UUID, uuid)
	}
	folder, unmount = mount(t, volume)
	defer unmount()
	if got, err := os.ReadFile(filepath.Join(folder, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file is another, %v", err)
	}
}

func rekeyed(t testing.TB, path string, old, next []byte) {
	t.Helper()
	device, err := OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := Rekey(device, old, next); err != nil {
		t.Fatal(err)
	}
}

// TestStockCryptsetupOpens is how data is recovered by hand: docs/state-disk.md. The header is the disk's own, and a file
// with the first copy alone, as disk/luks2/recover.py writes it when it has checked it.
func TestStockCryptsetupOpens(t *testing.T) {
	path := scratch(t, "large")
	key, uuid := formatted(t, path)
	folder := t.TempDir()
	keyFile, headerFile := filepath.Join(folder, "key"), filepath.Join(folder, "header")
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	header := readFile(t, path, luks2.AreaSize)
	clear(header[luks2.HeaderSize:luks2.SlotOffset])
	if err := errors.Join(os.WriteFile(headerFile, header, 0o600), os.Truncate(headerFile, luks2.DataOffset)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/cryptsetup", 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cryptsetup", "luksUUID", path).CombinedOutput(); err != nil || string(out) != uuid+"\n" {
		t.Errorf("cryptsetup luksUUID: %s, %v", out, err)
	}
	for name, args := range map[string][]string{"the disk's header": nil, "a header in a file": {"--header", headerFile}} {
		t.Run(name, func(t *testing.T) {
			open := append([]string{"open", "--type", "luks2", "--key-file", keyFile, path, "recovered"}, args...)
			if out, err := exec.Command("cryptsetup", open...).CombinedOutput(); err != nil {
				debug, _ := exec.Command("cryptsetup", append(open, "--debug")...).CombinedOutput()
				t.Fatalf("cryptsetup open: %v: %s\n%s", err, out, debug)
			}
			mounted := t.TempDir()
			if err := unix.Mount("/dev/mapper/recovered", mounted, "ext4", unix.MS_RDONLY, ""); err != nil {
				t.Error(err)
			} else if err := unix.Unmount(mounted, 0); err != nil {
				t.Error(err)
			}
			if out, err := exec.Command("cryptsetup", "close", "recovered").CombinedOutput(); err != nil {
				t.Errorf("cryptsetup close: %v: %s", err, out)
			}
		})
	}
}
