// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/e2e/driver"
	"github.com/constellation-os/constellation/measurements"
)

// places are where the state disk is mounted, each with the options that it must have.
var places = map[string][]string{
	"/state":          {"rw", "nosuid", "nodev"},
	"/var":            {"rw", "nosuid", "nodev"},
	"/opt":            {"rw", "nosuid", "nodev"},
	"/etc/kubernetes": {"rw", "nosuid", "nodev", "noexec"},
	"/etc/cni":        {"rw", "nosuid", "nodev", "noexec"},
}

func newKey() []byte {
	key := make([]byte, disk.KeySize)
	rand.Read(key)
	return key
}

// call has the machine call its diskmapper.
func (d *driven) call(t *testing.T, call driver.DiskCall) driver.DiskResult {
	t.Helper()
	return *d.must(t, driver.Request{Disk: &call}).Disk
}

// refuses has the machine call its diskmapper in vain.
func (d *driven) refuses(t *testing.T, call driver.DiskCall, reason, header string) {
	t.Helper()
	response := d.ask(t, driver.Request{Disk: &call})
	if r := response.Disk; response.Error == "" || r.Reason != reason || r.HeaderReason != header {
		t.Errorf("%s: %+v, %q, want %s %s", call.Method, r, response.Error, reason, header)
	}
}

// mounts are the options of what is mounted at the state disk's places.
func (d *driven) mounts(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(string(d.must(t, driver.Request{Read: "/proc/self/mountinfo"}).Output)) {
		// proc_pid_mountinfo(5): the fifth field is where, the sixth how.
		fields := strings.Fields(line)
		if len(fields) < 10 {
			t.Fatalf("mountinfo has the line %q", line)
		}
		if _, ok := places[fields[4]]; ok {
			found[fields[4]] = fields[5] + " " + strings.Join(fields[6:], " ")
		}
	}
	return found
}

// mustBeWithoutDisk: where the state disk would be is nothing, and nothing can be put there.
func (d *driven) mustBeWithoutDisk(t *testing.T) {
	t.Helper()
	if found := d.mounts(t); len(found) > 0 {
		t.Errorf("mounted without the disk: %v", found)
	}
	for place := range places {
		if entries := d.must(t, driver.Request{List: place}).Entries; len(entries) > 0 {
			t.Errorf("%s holds %v without the disk", place, entries)
		}
		if r := d.ask(t, driver.Request{Write: place + "/file", Content: []byte("x")}); !strings.HasSuffix(r.Error, "read-only file system") {
			t.Errorf("writing to %s without the disk: %q", place, r.Error)
		}
	}
}

// lacks asserts that a unit does not start, because of what it depends on.
func (d *driven) lacks(t *testing.T, unit string) {
	t.Helper()
	r := d.ask(t, driver.Request{Run: []string{"systemctl", "start", unit}})
	if want := "A dependency job for " + unit + " failed."; r.Error == "" || !strings.Contains(string(r.Output), want) {
		t.Errorf("without the state disk, starting %s says %q (%s), want %q", unit, r.Output, r.Error, want)
	}
}

// mustMount reaches the target and looks at what is then mounted.
func (d *driven) mustMount(t *testing.T) {
	t.Helper()
	d.must(t, driver.Request{Run: []string{"systemctl", "start", "state-disk.target"}})
	found := d.mounts(t)
	for place, options := range places {
		if !strings.Contains(found[place], "- ext4 /dev/mapper/state ") {
			t.Errorf("%s is not the state disk: %q", place, found[place])
		}
		set := strings.Split(strings.Fields(found[place] + " ")[0], ",")
		for _, option := range options {
			if !strings.Contains(","+strings.Join(set, ",")+",", ","+option+",") {
				t.Errorf("%s is mounted without %s: %q", place, option, found[place])
			}
		}
	}
}

// shows asserts what the console shows.
func (d *driven) shows(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !d.console.contains(text) {
			t.Errorf("the console does not show %q", text)
		}
	}
}

// TestStateDisk takes a machine from a blank second disk through its first boots.
func TestStateDisk(t *testing.T) {
	c := config(t)
	c.StateDir = t.TempDir()
	c.StateDisk = filepath.Join(t.TempDir(), "state.raw")
	if err := machine.CreateStateDisk(c.StateDisk, machine.StateDiskSize); err != nil {
		t.Fatal(err)
	}
	key, uuid := newKey(), disk.NewUUID()
	content := make([]byte, 1<<20)
	rand.Read(content)
	known := &disk.Generation{}
	older := filepath.Join(t.TempDir(), "older.raw")

	t.Run("blank", func(t *testing.T) {
		d := drive(t, c)
		d.mustBeWithoutDisk(t)
		d.lacks(t, "containerd.service")
		if r := d.call(t, driver.DiskCall{Method: "Inspect"}); r.Kind != "KIND_FRESH" || r.Size != machine.StateDiskSize {
			t.Errorf("a blank disk is %+v", r)
		}
		d.refuses(t, driver.DiskCall{Method: "Open", Key: key}, "REASON_FRESH", "")
		opened := d.call(t, driver.DiskCall{Method: "Open", Key: key, Format: uuid, Known: known})
		if opened.UUID != uuid || opened.Known.Number != 1 {
			t.Errorf("opened %+v", opened)
		}
		known = opened.Known
		d.mustMount(t)
		for place := range places {
			d.must(t, driver.Request{Write: place + "/kept", Content: content})
		}
		for _, folder := range []string{"/var/lib", "/var/log", "/var/tmp", "/etc/cni/net.d"} {
			d.must(t, driver.Request{List: folder})
		}
		d.must(t, driver.Request{Run: []string{"systemctl", "start", "containerd.service"}})
		d.refuses(t, driver.DiskCall{Method: "Open", Key: key}, "REASON_OPEN", "")
		d.end(t, "reboot", "guest-reset")
		d.shows(t, "formatting the state disk", "the state disk is open", uuid)
		d.mustHaveClosed(t)
	})
	copyFile(t, c.StateDisk, older)
	if err := os.Truncate(c.StateDisk, 2*machine.StateDiskSize); err != nil {
		t.Fatal(err)
	}

	t.Run("another boot", func(t *testing.T) {
		d := drive(t, c)
		d.mustBeWithoutDisk(t)
		if r := d.call(t, driver.DiskCall{Method: "Inspect"}); r.Kind != "KIND_OURS" || r.UUID != uuid {
			t.Errorf("the disk is %+v", r)
		}
		d.refuses(t, driver.DiskCall{Method: "Open", Key: newKey()}, "REASON_HEADER", string(luks2.ReasonUnauthentic))
		d.refuses(t, driver.DiskCall{Method: "Open", Key: newKey(), Format: disk.NewUUID()}, "REASON_HOLDS_SOMETHING", "")
		d.mustBeWithoutDisk(t)
		opened := d.call(t, driver.DiskCall{Method: "Open", Key: key, Known: known})
		if opened.UUID != uuid || opened.Known.Number != 2 {
			t.Errorf("opened %+v", opened)
		}
		known = opened.Known
		d.mustMount(t)
		for place := range places {
			if got := d.must(t, driver.Request{Read: place + "/kept"}).Output; !bytes.Equal(got, content) {
				t.Errorf("%s/kept is another after a reboot", place)
			}
		}
		d.call(t, driver.DiskCall{Method: "Grow"})
		again := d.must(t, driver.Request{Run: []string{"resize2fs", opened.Device}})
		if opened.Size < 3*machine.StateDiskSize/2 || !strings.Contains(string(again.Output), "Nothing to do") {
			t.Errorf("the disk has grown, and after Grow the volume has %d bytes, resize2fs says: %s", opened.Size, again.Output)
		}
		d.end(t, "poweroff", "guest-shutdown")
		d.shows(t, "the state disk stays closed", "the state disk is open")
		d.mustHaveClosed(t)
	})

	t.Run("V14: an older copy", func(t *testing.T) {
		c := c
		c.StateDisk = older
		d := drive(t, c)
		d.refuses(t, driver.DiskCall{Method: "Open", Key: key, Known: known}, "REASON_ROLLED_BACK", "")
		d.mustBeWithoutDisk(t)
		d.shows(t, "the state disk stays closed", "is an older copy: it is of generation 1, the cluster knows generation 2")
	})

	t.Run("damaged", func(t *testing.T) {
		spoil(t, c.StateDisk)
		d := drive(t, c)
		if r := d.call(t, driver.DiskCall{Method: "Inspect"}); r.Kind != "KIND_DAMAGED" {
			t.Errorf("the disk is %+v", r)
		}
		d.refuses(t, driver.DiskCall{Method: "Open", Key: key, Known: known}, "REASON_HEADER", string(luks2.ReasonChecksum))
		d.mustBeWithoutDisk(t)
		d.shows(t, "the state disk stays closed", "checksum")
	})
}

// mustHaveClosed: the disk was unmounted and unmapped before the machine ended. What stays is the root.
func (d *driven) mustHaveClosed(t *testing.T) {
	t.Helper()
	d.shows(t, "Unmounted etc-cni.mount", "Unmounted var.mount", "Unmounted state.mount", "driver: still mapped: root.")
}

// TestNoStateDisk: a machine without the disk says so, and nothing takes its place.
func TestNoStateDisk(t *testing.T) {
	c := config(t)
	c.Shape.Devices = nil
	for _, d := range measurements.QEMU().Devices {
		if d.Model != measurements.ModelDisk || d.Boot {
			c.Shape.Devices = append(c.Shape.Devices, d)
		}
	}
	d := drive(t, c)
	d.refuses(t, driver.DiskCall{Method: "Open", Key: newKey(), Format: disk.NewUUID()}, "REASON_NO_DISK", "")
	d.shows(t, "the state disk stays closed", `no disk has the serial number \"constellation-state\"`)
	d.lacks(t, "state-disk.target")
	d.mustBeWithoutDisk(t)
}

// copyFile copies a sparse file.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.CreateStateDisk(to, info.Size()); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	block, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < info.Size(); at += int64(len(block)) {
		n, err := in.ReadAt(block, at)
		if n == 0 {
			t.Fatal(err)
		}
		if bytes.Equal(block[:n], zero[:n]) {
			continue
		}
		if _, err := out.WriteAt(block[:n], at); err != nil {
			t.Fatal(err)
		}
	}
}

// spoil changes one bit of the metadata in each copy of the header.
func spoil(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, which := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		one := make([]byte, 1)
		const metadata = 4096 + 20
		if _, err := file.ReadAt(one, which.Offset()+metadata); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 1
		if _, err := file.WriteAt(one, which.Offset()+metadata); err != nil {
			t.Fatal(err)
		}
	}
}
