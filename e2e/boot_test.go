// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/e2e/tamper"
	"github.com/constellation-os/constellation/measurements"
)

// TestImageMeasuresWhatIsPredicted boots the image cold and compares every PCR in
// both banks and every event.
func TestImageMeasuresWhatIsPredicted(t *testing.T) {
	want := reference(t)
	published, err := measurements.ParsePrediction(read(t, filepath.Join(folder(t, imageEnv), "measurements.json")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(published, predicted(t, config(t), nil)); diff != "" {
		t.Errorf("the published measurements are not those of the image beside them (-published +predicted):\n%s", diff)
	}
	for i := range 3 {
		t.Run(fmt.Sprintf("boot %d", i+1), func(t *testing.T) {
			observed, err := boot(t, config(t))
			if err != nil {
				t.Fatal(err)
			}
			assertEqualPCRs(t, want, observed)
			c, err := measurements.Compare(want, observed)
			if err != nil {
				t.Fatal(err)
			}
			if !c.Match || len(c.Findings) > 0 {
				t.Errorf("the comparison finds differences: %+v", c.Findings)
			}
			for _, e := range c.Events {
				if e.Status != measurements.StatusMatch {
					t.Errorf("an event is not accounted for: %+v", e)
				}
			}
			if len(want.Unpredicted) > 0 {
				t.Errorf("the prediction leaves out %+v", want.Unpredicted)
			}
		})
	}
}

// assertEqualPCRs compares values directly, not by the code under test.
func assertEqualPCRs(t *testing.T, want *measurements.Prediction, got *measurements.Observed) {
	t.Helper()
	for _, bank := range []measurements.Algorithm{measurements.SHA256, measurements.SHA384} {
		for pcr := range 16 {
			if w, g := want.PCRs[bank][pcr].String(), got.PCRs[bank][pcr].String(); w == "" || w != g {
				t.Errorf("%s PCR %d is %q, predicted %q", bank, pcr, g, w)
			}
		}
	}
}

// finding is what a tampered boot's explanation must say.
type finding struct {
	PCR       int
	Reason    measurements.Reason
	Component measurements.Component
	Fails     bool
}

// tampering is one way to boot something else.
type tampering struct {
	name string
	rare bool // run in the campaign only
	// change turns the machine, which has a disk of its own if disk is not nil,
	// into a tampered one.
	change func(t *testing.T, c *machine.Config, disk *tamper.Disk) error
	want   []finding
}

func tamperings() []tampering {
	return []tampering{
		{
			name: "another command line",
			change: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) error {
				return disk.CommandLine("flavour=qemu", "flavour=QEMU")
			},
			want: []finding{
				{4, measurements.ReasonDigest, measurements.ComponentUKI, true},
				{9, measurements.ReasonDigest, measurements.ComponentCmdline, true},
				{11, measurements.ReasonDigest, measurements.ComponentCmdline, true},
			},
		},
		{
			name: "one byte of the initrd",
			change: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) error {
				return disk.Initrd()
			},
			want: []finding{
				{4, measurements.ReasonDigest, measurements.ComponentUKI, true},
				{9, measurements.ReasonDigest, measurements.ComponentInitrd, true},
				{11, measurements.ReasonDigest, measurements.ComponentInitrd, true},
			},
		},
		{
			name: "a credential on the EFI partition",
			change: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) error {
				return disk.AddFile("/loader/credentials/evil.cred", []byte("evil"))
			},
			want: []finding{
				{9, measurements.ReasonDigest, measurements.ComponentInitrd, true},
				{12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, true},
			},
		},
		{
			name: "an add-on on the EFI partition",
			change: func(t *testing.T, _ *machine.Config, disk *tamper.Disk) error {
				return disk.AddFile("/loader/addons/evil.addon.efi", tamper.Addon("systemd.log_level=debug"))
			},
			want: []finding{
				{4, measurements.ReasonExtraEvent, measurements.ComponentOverrides, true},
				{9, measurements.ReasonDigest, measurements.ComponentCmdline, true},
				{12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, true},
			},
		},
		{
			name: "a moved partition",
			change: func(_ *testing.T, _ *machine.Config, disk *tamper.Disk) error {
				return disk.MoveTree()
			},
			want: []finding{
				{5, measurements.ReasonDigest, measurements.ComponentPartitions, true},
			},
		},
		{
			name: "another variable store",
			change: func(t *testing.T, c *machine.Config, _ *tamper.Disk) error {
				vars := filepath.Join(t.TempDir(), "vars.fd")
				from := c.Firmware.Vars
				c.Firmware.Vars = vars
				return tamper.AddAllowedHash(from, vars)
			},
			want: []finding{
				{7, measurements.ReasonDigest, measurements.ComponentVariables, true},
			},
		},
		{
			name: "an injected ACPI table",
			change: func(t *testing.T, c *machine.Config, _ *tamper.Disk) error {
				table := filepath.Join(t.TempDir(), "table.aml")
				c.ExtraArgs = []string{"-acpitable", "sig=SSDT,data=" + table}
				return tamper.ACPITable(table)
			},
			want: []finding{
				{1, measurements.ReasonDigest, measurements.ComponentMachine, false}, // the loader script
				{1, measurements.ReasonDigest, measurements.ComponentMachine, false}, // the root pointer
				{1, measurements.ReasonDigest, measurements.ComponentMachine, false}, // the tables
			},
		},
		{
			// What the host adds to the command line through SMBIOS, systemd-stub measures
			// apart from the UKI's own. The firmware measures no OEM strings.
			name: "a command line out of SMBIOS",
			change: func(_ *testing.T, c *machine.Config, _ *tamper.Disk) error {
				c.ExtraArgs = []string{"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.log_level=debug"}
				return nil
			},
			want: []finding{
				{9, measurements.ReasonDigest, measurements.ComponentCmdline, true},
				{12, measurements.ReasonExtraEvent, measurements.ComponentOverrides, true},
			},
		},
		{
			name: "a TPM without a SHA-384 bank", rare: true,
			change: func(_ *testing.T, c *machine.Config, _ *tamper.Disk) error {
				c.TPM.Banks = []string{"sha256"}
				return nil
			},
			want: []finding{
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, false},
			},
		},
		{
			name: "no TPM", rare: true,
			change: func(_ *testing.T, c *machine.Config, _ *tamper.Disk) error {
				c.TPM.Absent = true
				return nil
			},
			want: []finding{
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, true},
				{measurements.NoPCR, measurements.ReasonMissingBank, measurements.ComponentMachine, false},
				{measurements.NoPCR, measurements.ReasonNoLog, measurements.ComponentFirmware, false},
				// The kernel's own list shows an aggregate of nothing.
				{10, measurements.ReasonDigest, measurements.ComponentIMA, false},
			},
		},
	}
}

// TestTamperingIsExplained boots machines that differ from the image's and
// asserts that the comparison says exactly how.
func TestTamperingIsExplained(t *testing.T) {
	want := reference(t)
	for _, tc := range tamperings() {
		if tc.rare && !*campaign {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			disk, err := tamper.CopyDisk(c.Disk, filepath.Join(t.TempDir(), "disk.raw"))
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			c.Disk = disk.Path
			if err := tc.change(t, &c, disk); err != nil {
				t.Fatal(err)
			}
			observed, err := boot(t, c)
			if err != nil {
				t.Fatal(err)
			}
			comparison, err := measurements.Compare(want, observed)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, findings(t, comparison)); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
			if fails := slices.ContainsFunc(tc.want, func(f finding) bool { return f.Fails }); comparison.Match == fails {
				t.Errorf("the verdict is match=%t, want %t", comparison.Match, !fails)
			}
		})
	}
}
