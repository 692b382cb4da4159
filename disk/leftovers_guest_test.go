// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"crypto/rand"
	"os/exec"
	"testing"

	"github.com/constellation-os/constellation/disk/devicemapper"
	"github.com/constellation-os/constellation/disk/luks2"
)

// TestLeftoversAreRemoved: what a call left that was killed in the middle keeps no later call from its work, and is not
// taken for an open disk.
func TestLeftoversAreRemoved(t *testing.T) {
	path := scratch(t, "small")
	leftovers := map[string]func(t *testing.T, uuid string){
		"formatting, at work on the file system": func(t *testing.T, uuid string) {
			volumeKey := make([]byte, luks2.VolumeKeySize)
			rand.Read(volumeKey)
			device, err := openFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			if _, err := newDisk.activate(device, uuid, volumeKey); err != nil {
				t.Fatal(err)
			}
		},
		"opening, before dm-crypt": func(t *testing.T, uuid string) {
			out, err := exec.Command("dmsetup", "create", openDisk.integrity, "--noudevsync", "--table", "0 8 linear "+path+" 0").CombinedOutput()
			if err != nil {
				t.Fatalf("dmsetup: %v: %s", err, out)
			}
		},
		"opening, before the table": func(t *testing.T, uuid string) {
			for _, name := range []string{openDisk.integrity, openDisk.volume} {
				if out, err := exec.Command("dmsetup", "create", name, "--noudevsync", "--notable").CombinedOutput(); err != nil {
					t.Fatalf("dmsetup: %v: %s", err, out)
				}
			}
		},
	}
	for name, leave := range leftovers {
		t.Run(name, func(t *testing.T) {
			key, uuid := formatted(t, path)
			leave(t, uuid)
			if current, err := Current(); err != nil || current != nil {
				t.Errorf("what was left counts as open: %+v, %v", current, err)
			}
			closed(t, opened(t, path, key, Unwitnessed()))
			for _, device := range []string{newDisk.volume, newDisk.integrity, openDisk.volume, openDisk.integrity} {
				if _, err := devicemapper.Inspect(device); err == nil {
					t.Errorf("%s is left", device)
				}
			}
			leave(t, uuid)
			formatted(t, path)
		})
	}
}
