// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"testing"

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
