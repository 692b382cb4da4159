// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/measurements"
)

// valid is a config of which only the files are missing.
func valid() Config {
	return Config{Disk: "disk.raw", Firmware: Firmware{Code: "code.fd", Vars: "vars.fd"}}
}

func TestConfigIsChecked(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		want   string // in the error; empty: none
	}{
		"defaults":             {func(*Config) {}, ""},
		"no firmware":          {func(c *Config) { c.Firmware = Firmware{} }, "needs firmware"},
		"option in the name":   {func(c *Config) { c.Name = "a,b=c" }, `machine name "a,b=c"`},
		"option in a port":     {func(c *Config) { c.Ports = []string{"a,b"} }, `port name "a,b"`},
		"option in a bank":     {func(c *Config) { c.TPM.Banks = []string{"sha256,sha1"} }, "unknown PCR bank"},
		"option in an address": {func(c *Config) { c.MACAddress = "52:54:00:00:00:01,x=y" }, `hardware address "52:54:00:00:00:01,x=y"`},
		"address of a group":   {func(c *Config) { c.MACAddress = "53:54:00:00:00:01" }, "want one of a single adapter"},
		"acceleration":         {func(c *Config) { c.Acceleration = "hvf" }, "unknown acceleration"},
		"option in the board": {func(c *Config) {
			c.Shape = measurements.QEMU()
			c.Shape.Board = "pc-q35-10.0,kernel=/etc/shadow"
		}, `board "pc-q35-10.0,kernel=/etc/shadow"`},
		"option in the processor": {func(c *Config) {
			c.Shape = measurements.QEMU()
			c.Shape.CPU = "max,x=y"
		}, `cpu "max,x=y"`},
		"no processor": {func(c *Config) { c.Shape = measurements.QEMU(); c.Shape.CPUs = 0 }, "0 CPUs"},
		"ports without a device": {func(c *Config) {
			c.Shape = measurements.QEMU()
			c.Shape.Devices = slices.DeleteFunc(c.Shape.Devices, func(d measurements.Device) bool {
				return d.Model == measurements.ModelSerial
			})
		}, "needs a virtio-serial-pci"},
		"state disk without a device": {func(c *Config) {
			c.Shape = measurements.QEMU()
			c.Shape.Devices = c.Shape.Devices[:4]
			c.StateDisk = "state.raw"
		}, "needs a second virtio-blk-pci"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := valid()
			tc.change(&c)
			_, err := c.withDefaults()
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestPreflightNamesWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	c := valid()
	c.TPM.AuthorityDir = t.TempDir()
	c.Shape = measurements.QEMU()
	c.Shape.MemoryMiB = 1 << 20
	err := Preflight(c)
	for _, tool := range []MissingToolError{
		{"qemu-system-x86_64", "qemu-system-x86"}, {"swtpm", "swtpm"}, {"swtpm_setup", "swtpm-tools"},
	} {
		if !strings.Contains(err.Error(), tool.Error()) {
			t.Errorf("the error does not say: %v\n%v", &tool, err)
		}
	}
	var file *MissingFileError
	if !errors.As(err, &file) || !strings.Contains(err.Error(), "ovmf") || !strings.Contains(err.Error(), "//image:qemu") {
		t.Errorf("the error does not say how to get the missing files: %v", err)
	}
	var resource *ResourceError
	if !errors.As(err, &resource) || resource.Resource != "memory" {
		t.Errorf("the error does not say that memory is short: %v", err)
	}
}

func TestPreflightOfAMachineWithoutTPMNeedsNoSoftwareTPM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	c := valid()
	c.TPM.Absent = true
	if err := Preflight(c); strings.Contains(err.Error(), "swtpm") {
		t.Errorf("it asks for swtpm: %v", err)
	}
}

func TestAvailableMemory(t *testing.T) {
	tests := map[string]struct {
		meminfo string
		want    int64
		ok      bool
	}{
		"usual":     {"MemTotal: 4096 kB\nMemAvailable:    2097152 kB\n", 2048, true},
		"missing":   {"MemTotal: 4096 kB\n", 0, false},
		"malformed": {"MemAvailable: lots kB\n", 0, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := availableMemoryMiB([]byte(tc.meminfo))
			if got != tc.want || ok != tc.ok {
				t.Errorf("got %d, %t, want %d, %t", got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestFileNamesMeanNothingToQEMU(t *testing.T) {
	c := valid()
	c.Disk, c.StateDisk = `/tmp/a,read-only=off,"b".raw`, `/tmp/state,serial="c".raw`
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	args := c.hardware(AccelerationTCG, 3)
	if !slices.ContainsFunc(args, func(a string) bool {
		return strings.Contains(a, `"filename":"/tmp/a,read-only=off,\"b\".raw"`) && strings.Contains(a, `"read-only":true`)
	}) {
		t.Errorf("the disk is not opened read-only under its name: %q", args)
	}
	if !slices.ContainsFunc(args, func(a string) bool {
		return strings.Contains(a, `"filename":"/tmp/state,serial=\"c\".raw"`) && !strings.Contains(a, `read-only`)
	}) {
		t.Errorf("the state disk is not opened under its name, to be written: %q", args)
	}
}

func TestStateFolderBelongsToOneMachine(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(lock, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFile(lock, false); err == nil {
		t.Error("a second machine got the state folder of a running one")
	}
	unlock()
	unlock, err = lockFile(lock, false)
	if err != nil {
		t.Errorf("the state folder of a machine that ended stays locked: %v", err)
	} else {
		unlock()
	}
}

func TestKeeperRemovesTheFolderWithTheLastUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := startKeeper(dir)
	if err != nil {
		t.Fatal(err)
	}
	user, err := startProcess("/bin/sh", []string{"-c", "read -r _; exit 3"}, []*os.File{k.hold}, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-user.done
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the folder is gone while this process holds it: %v", err)
	}
	if err := k.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestMachinesHaveHardwareAddressesOfTheirOwn(t *testing.T) {
	for name, tc := range map[string]struct{ set, want string }{
		"default": {"", "virtio-net-pci,bus=pcie.0,addr=0x2,romfile=,mac=52:54:00:00:00:01"},
		"set":     {"52:54:00:00:00:0a", "virtio-net-pci,bus=pcie.0,addr=0x2,romfile=,mac=52:54:00:00:00:0a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			c.MACAddress = tc.set
			c, err := c.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			if args := c.hardware(AccelerationTCG, 3); !slices.Contains(args, tc.want) {
				t.Errorf("%q is not among %q", tc.want, args)
			}
		})
	}
}
