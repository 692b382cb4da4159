// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

// A disk that was changed must not become the reference that it is compared with.
func TestOnlyThePublishedDiskCompletesItsReference(t *testing.T) {
	uki := artifacttest.DefaultUKI()
	predicted := func(disk []byte, config map[string][]byte) *measurements.Prediction {
		t.Helper()
		p, err := predict.Predict(predict.Input{
			Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)), Machine: measurements.QEMU(), FirmwareConfig: config,
			FirmwareCode: artifacttest.FirmwareCode(), FirmwareVariables: artifacttest.FirmwareVariables(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	disk := func(u artifacttest.UKISections) []byte {
		return artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: u.Encode()})
	}
	published := predicted(disk(uki), nil)
	if _, known := published.PCRs[measurements.SHA256][1]; known {
		t.Fatal("PCR 1 is predicted without QEMU's files: this test is about nothing")
	}
	tests := map[string]struct {
		full *measurements.Prediction
		want bool
	}{
		"the published disk":   {predicted(disk(uki), nil), true},
		"another command line": {predicted(disk(uki.With(".cmdline", []byte("roothash=11 constellation.flavour=test"))), nil), false},
		"another initrd":       {predicted(disk(uki.With(".initrd", []byte("other"))), nil), false},
		"enforcing less": {func() *measurements.Prediction {
			p := predicted(disk(uki), nil)
			p.Enforced = p.Enforced[1:]
			return p
		}(), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := extends(tc.full, published); got != tc.want {
				t.Errorf("it may stand in for the published: %t, want %t", got, tc.want)
			}
		})
	}
}

// The disk at hand is predicted for the machine that boots it, from inputs of bounded size.
func TestPredictDisk(t *testing.T) {
	dir := t.TempDir()
	code, vars := artifacttest.FirmwareCode(), artifacttest.FirmwareVariables()
	disk := artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()})
	for name, content := range map[string][]byte{"disk": disk, "code": code, "vars": vars, "huge": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "huge"), 1<<32); err != nil {
		t.Fatal(err)
	}
	config := machine.Config{
		Disk: filepath.Join(dir, "disk"), Shape: measurements.QEMU(),
		Firmware: machine.Firmware{Code: filepath.Join(dir, "code"), Vars: filepath.Join(dir, "vars")},
	}
	config.Shape.Devices[1], config.Shape.Devices[2] = measurements.Device{Slot: 3, Model: measurements.ModelSerial}, measurements.Device{Slot: 4, Model: measurements.ModelDisk, Boot: true}
	files := map[string][]byte{"etc/table-loader": make([]byte, 128)}
	want, err := predict.Predict(predict.Input{
		Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)), Machine: config.Shape, FirmwareConfig: files, FirmwareCode: code, FirmwareVariables: vars,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := predictDisk(config, files)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	for name, test := range map[string]struct {
		change func(c *machine.Config)
		want   string
	}{
		"huge code":                {func(c *machine.Config) { c.Firmware.Code = filepath.Join(dir, "huge") }, "huge has more than 16777216 bytes"},
		"huge variable store":      {func(c *machine.Config) { c.Firmware.Vars = filepath.Join(dir, "huge") }, "huge has more than 16777216 bytes"},
		"a folder for a disk":      {func(c *machine.Config) { c.Disk = dir }, "is not a disk image file"},
		"a machine that cannot be": {func(c *machine.Config) { c.Shape.CPUs = 0 }, "0 CPUs"},
	} {
		c := config
		test.change(&c)
		if _, err := predictDisk(c, files); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
