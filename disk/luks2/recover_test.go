// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/keys"
)

// TestRecoverByHand runs recover.py, which knows nothing of this package, on disks that this package wrote.
func TestRecoverByHand(t *testing.T) {
	ring := keys.Generate()
	version, err := ring.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	master, err := ring.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	derived, err := ring.DataKey(t.Context(), keys.PurposeStateDisk, uuid, KeySize, version)
	if err != nil {
		t.Fatal(err)
	}
	d := diskOf(t, derived.Secret.Copy())
	whole := slices.Concat(d.header.Encode(Primary), d.header.Encode(Secondary), d.area, make([]byte, SlotSize))
	good := "authentic: " + uuid + " of generation 1"
	for _, test := range []struct {
		name    string
		change  func(disk []byte)
		version keys.Version
		says    string
	}{
		{"both copies", func([]byte) {}, version, good},
		{"the first copy is broken", func(b []byte) { b[5000] ^= 1 }, version, good},
		{"the second copy is an attacker's", func(b []byte) { copy(b[HeaderSize:], newDisk(t).header.Encode(Secondary)) }, version, good},
		{"the master secret before", func([]byte) {}, version - 1, "not authentic"},
		{"a version that is not there", func([]byte) {}, 9, "no version 9: the file has 1, 2"},
		{"both copies are changed", func(b []byte) { b[20] ^= 1; b[HeaderSize+20] ^= 1 }, version, "not authentic"},
		{"the cipher is none", func(b []byte) {
			for _, which := range []Copy{Primary, Secondary} {
				const old = `"iv_tweak":"0","encryption":"aes-xts-plain64"`
				copy(b[which.Offset():], rewrite(t, b[which.Offset():][:HeaderSize], old, `"iv_tweak":"0","encryption":"cipher_null-ecb"`))
			}
		}, version, "not authentic"},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := bytes.Clone(whole)
			test.change(content)
			folder := t.TempDir()
			err := errors.Join(os.WriteFile(filepath.Join(folder, "disk"), content, 0o600), os.WriteFile(filepath.Join(folder, "master"), master, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("python3", "recover.py", filepath.Join(folder, "master"), fmt.Sprint(test.version),
				filepath.Join(folder, "disk"), folder).CombinedOutput()
			if !strings.HasPrefix(string(out), test.says) || (err == nil) != (test.says == good) {
				t.Fatalf("it says %q, %v, want %q", out, err, test.says)
			}
			if err == nil {
				wantRecovered(t, d, folder)
			} else if _, err := os.Stat(filepath.Join(folder, "state.key")); err == nil {
				t.Error("it wrote the key all the same")
			}
		})
	}
}

// wantRecovered: the folder has the disk's key, and a header of nothing but what was checked.
func wantRecovered(t *testing.T, d *disk, folder string) {
	t.Helper()
	if key, err := os.ReadFile(filepath.Join(folder, "state.key")); err != nil || !bytes.Equal(key, d.key) {
		t.Errorf("the key is another, %v", err)
	}
	header, err := os.ReadFile(filepath.Join(folder, "state.header"))
	if err != nil || len(header) != DataOffset {
		t.Fatalf("the header has %d bytes, %v", len(header), err)
	}
	if !bytes.Equal(header[:HeaderSize], d.header.Encode(Primary)) || !bytes.Equal(header[SlotOffset:][:SlotSize], d.area) {
		t.Error("the header is another than was checked")
	}
	if len(bytes.Trim(header[HeaderSize:SlotOffset], "\x00")) > 0 {
		t.Error("something that was not checked is in the second copy's place")
	}
}
