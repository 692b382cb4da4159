// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/measurements"
)

// TestDebugFlavour: the flavour with a shell measures exactly what is predicted for
// it, and is refused by whoever expects the one without. (V11)
func TestDebugFlavour(t *testing.T) {
	c := config(t)
	c.Disk = filepath.Join(folder(t, debugImageEnv), "disk.raw")
	files, err := machine.ReadFirmwareConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	want := predicted(t, c, files)
	observed, err := boot(t, c)
	if err != nil {
		t.Fatal(err)
	}
	assertEqualPCRs(t, want, observed)
	comparison, err := measurements.Compare(want, observed)
	if err != nil {
		t.Fatal(err)
	}
	if !comparison.Match || len(comparison.Findings) > 0 {
		t.Errorf("the comparison with its own prediction finds differences: %+v", comparison.Findings)
	}
	comparison, err = measurements.Compare(reference(t), observed)
	if err != nil {
		t.Fatal(err)
	}
	if comparison.Match {
		t.Error("the debug flavour passes for the other")
	}
	differ := map[int]bool{}
	for _, f := range findings(t, comparison) {
		if f.Fails {
			differ[f.PCR] = true
		}
	}
	for _, pcr := range []int{4, 5, 9, 11} {
		if !differ[pcr] {
			t.Errorf("PCR %d does not tell the flavours apart", pcr)
		}
	}
}
