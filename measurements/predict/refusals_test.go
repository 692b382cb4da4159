// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/predict"
)

// firmwareVersion gives the firmware another version of the same length.
func firmwareVersion(version string) func(a *artifacts) {
	return func(a *artifacts) {
		at := bytes.Index(a.volumes.PEI, artifacttest.UTF16(artifacttest.FirmwareVersion))
		copy(a.volumes.PEI[at:], artifacttest.UTF16(version))
	}
}

func gptBytes(s string) []byte { g := gpt.MustParseGUID(s); return g[:] }

// Whatever would make the boot depend on more than is modelled is refused.
func TestPredictRefuses(t *testing.T) {
	file := func(path string) func(a *artifacts) {
		return func(a *artifacts) { a.files = []artifacttest.File{{Path: path, Content: []byte("x")}} }
	}
	tests := map[string]struct {
		change func(a *artifacts)
		want   string
	}{
		"credential":              {file("loader/credentials/x.cred"), "predict:unexpected-file"},
		"add-on":                  {file("EFI/BOOT/BOOTX64.EFI.extra.d/x.addon.efi"), "predict:unexpected-file"},
		"random seed":             {file("loader/random-seed"), "predict:unexpected-file"},
		"no ESP":                  {func(a *artifacts) { a.table.Partitions[0].Type = gpt.TypeRoot }, "predict:no-esp"},
		"two ESPs":                {func(a *artifacts) { a.table.Partitions[1].Type = gpt.TypeESP }, "predict:no-esp"},
		"no command line":         {func(a *artifacts) { a.uki = a.uki.Without(".cmdline") }, "predict:no-command-line"},
		"blank command line":      {func(a *artifacts) { a.uki[".cmdline"] = []byte(" \n") }, "predict:no-command-line"},
		"command line in Latin-1": {func(a *artifacts) { a.uki[".cmdline"] = []byte("x=\xe4") }, "predict:command-line"},
		"kernel that is no PE":    {func(a *artifacts) { a.uki[".linux"] = []byte("kernel") }, "pe:truncated"},
		"stub of another version": {func(a *artifacts) { a.stub = "258.1" }, "predict:stub"},
		"no kernel version":       {func(a *artifacts) { a.uki = a.uki.Without(".uname") }, "predict:kernel"},
		"empty kernel version":    {func(a *artifacts) { a.uki[".uname"] = nil }, "predict:kernel"},
		"kernel 6.18":             {func(a *artifacts) { a.uki[".uname"] = []byte("6.18.3") }, "predict:kernel"},
		"kernel 6.120":            {func(a *artifacts) { a.uki[".uname"] = []byte("6.120.1") }, "predict:kernel"},
		"kernel 16.12":            {func(a *artifacts) { a.uki[".uname"] = []byte("16.12.1") }, "predict:kernel"},
		"OVMF 2024.11":            {firmwareVersion("2024.11-test"), "predict:firmware"},
		"OVMF 2025.05":            {firmwareVersion("2025.05-test"), "predict:firmware"},
		"OVMF 2025.021":           {firmwareVersion("2025.021test"), "predict:firmware"},
		"OVMF without a version":  {firmwareVersion(strings.Repeat("\x01", 12)), "predict:firmware"},
		"OVMF without TPM support": {func(a *artifacts) {
			at := bytes.Index(a.volumes.PEI, gptBytes("a0c98b77-cba5-4bb8-993b-4af6ce33ece4"))
			a.volumes.PEI[at]++
		}, "ovmf:unmeasured"},
		"Secure Boot firmware": {func(a *artifacts) { a.volumes = artifacttest.FirmwareVolumes(true) }, "predict:secure-boot"},
		"used variable store": {func(a *artifacts) {
			a.variables = []artifacttest.Variable{{Vendor: ovmf.GlobalVariable, Name: "BootOrder", Data: []byte{0, 0}}}
		}, "predict:boot-options"},
		"other board":         {func(a *artifacts) { a.machine.Board = "pc-i440fx-10.0" }, "predict:machine"},
		"no boot disk":        {func(a *artifacts) { a.machine.Devices = nil }, "predict:machine"},
		"script of odd size":  {func(a *artifacts) { a.config["etc/table-loader"] = make([]byte, 100) }, "predict:acpi"},
		"missing fw_cfg file": {func(a *artifacts) { delete(a.config, "etc/acpi/rsdp") }, "predict:acpi"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := defaults()
			test.change(a)
			_, err := predict.Predict(a.input())
			if got := reason(err); got != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

// Truncated inputs end with a reason, wherever they are cut.
func TestTruncatedInputs(t *testing.T) {
	good := defaults().input()
	disk := make([]byte, good.DiskSize)
	if _, err := good.Disk.ReadAt(disk, 0); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 511, 512, 1024, 5000, len(disk) / 2, len(disk) - 512} {
		in := good
		in.Disk, in.DiskSize = bytes.NewReader(disk[:n]), int64(n)
		if _, err := predict.Predict(in); reason(err) == "" {
			t.Errorf("disk cut to %d bytes: %v", n, err)
		}
		in = good
		in.Disk = bytes.NewReader(disk[:n]) // the size is a lie
		if _, err := predict.Predict(in); reason(err) == "" {
			t.Errorf("disk that ends after %d bytes: %v", n, err)
		}
	}
	for n := 0; n < len(good.FirmwareCode); n += 37 {
		in := good
		in.FirmwareCode = good.FirmwareCode[:n]
		if _, err := predict.Predict(in); reason(err) == "" {
			t.Errorf("code cut to %d bytes: %v", n, err)
		}
	}
}
