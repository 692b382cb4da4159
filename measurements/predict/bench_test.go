// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/predict"
)

// BenchmarkPredict takes the artifacts that CONSTELLATION_IMAGE (a folder with
// disk.raw) and CONSTELLATION_FIRMWARE (one with OVMF_CODE_4M.fd and
// OVMF_VARS_4M.fd) name, else small stand-ins.
func BenchmarkPredict(b *testing.B) {
	in := defaults().input()
	if image, firmware := os.Getenv("CONSTELLATION_IMAGE"), os.Getenv("CONSTELLATION_FIRMWARE"); image != "" && firmware != "" {
		read := func(path string) []byte {
			data, err := os.ReadFile(path)
			if err != nil {
				b.Fatal(err)
			}
			return data
		}
		disk := read(image + "/disk.raw")
		in = predict.Input{
			Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)), Machine: measurements.QEMU(),
			FirmwareCode: read(firmware + "/OVMF_CODE_4M.fd"), FirmwareVariables: read(firmware + "/OVMF_VARS_4M.fd"),
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := predict.Predict(in); err != nil {
			b.Fatal(err)
		}
	}
}
