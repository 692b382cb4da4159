// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/e2e/tamper"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
)

// TestOneBitOfAnyInputIsExplained changes one bit of each input of the real image
// and lets a machine that measures exactly the result be compared with the
// original's prediction. Nothing is booted.
func TestOneBitOfAnyInputIsExplained(t *testing.T) {
	want := reference(t)
	files, err := machine.ReadFirmwareConfig(t.Context(), config(t))
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string) func(*machine.Config, *tamper.Disk) error {
		return func(_ *machine.Config, d *tamper.Disk) error { return d.Section(name) }
	}
	uki := finding{4, measurements.ReasonDigest, measurements.ComponentUKI, true}
	in := func(pcr int, c measurements.Component) finding {
		return finding{pcr, measurements.ReasonDigest, c, true}
	}
	tests := []struct {
		input  string
		change func(*machine.Config, *tamper.Disk) error
		want   []finding
	}{
		{"boot stub", section(".text"), []finding{uki}},
		{"kernel", section(".linux"), []finding{uki, in(4, measurements.ComponentKernel), in(11, measurements.ComponentKernel)}},
		{"initrd", section(".initrd"), []finding{uki, in(9, measurements.ComponentInitrd), in(11, measurements.ComponentInitrd)}},
		{"command line", section(".cmdline"), []finding{uki, in(9, measurements.ComponentCmdline), in(11, measurements.ComponentCmdline)}},
		{"kernel's version", section(".uname"), []finding{uki, in(11, measurements.ComponentMetadata)}},
		{"root", func(_ *machine.Config, d *tamper.Disk) error { return d.RebuildRoot(1 << 20) },
			[]finding{uki, in(5, measurements.ComponentPartitions), in(9, measurements.ComponentCmdline), in(11, measurements.ComponentCmdline)}},
		{"partition's name", func(_ *machine.Config, d *tamper.Disk) error { return d.RenameRoot("rooT") },
			[]finding{in(5, measurements.ComponentPartitions)}},
		{"firmware's variables", func(c *machine.Config, d *tamper.Disk) error {
			from := c.Firmware.Vars
			c.Firmware.Vars = filepath.Join(filepath.Dir(d.Path), "vars.fd")
			return tamper.AddAllowedHash(from, c.Firmware.Vars)
		}, []finding{in(7, measurements.ComponentVariables)}},
	}
	for _, tc := range tests {
		t.Run(tc.input, func(t *testing.T) {
			c := config(t)
			disk, err := tamper.CopyDisk(c.Disk, filepath.Join(t.TempDir(), "disk.raw"))
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			c.Disk = disk.Path
			if err := tc.change(&c, disk); err != nil {
				t.Fatal(err)
			}
			changed := predicted(t, c, files)
			comparison, err := measurements.Compare(want, artifacttest.Observed(changed, artifacttest.EventsOf(changed)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, findings(t, comparison)); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

// findings are what the tests pin of a comparison's findings.
func findings(t *testing.T, c *measurements.Comparison) []finding {
	t.Helper()
	var out []finding
	for _, f := range c.Findings {
		t.Logf("PCR %d, %s, %s: %s", f.PCR, f.Reason, f.Component, f.Explanation)
		out = append(out, finding{f.PCR, f.Reason, f.Component, f.Fails})
	}
	return out
}
