// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/ovmf"
)

// changed are the PCRs whose value differs.
func changed(a, b *measurements.Prediction) []int {
	var out []int
	for pcr := range 16 {
		if !bytes.Equal(a.PCRs[measurements.SHA256][pcr], b.PCRs[measurements.SHA256][pcr]) {
			out = append(out, pcr)
		}
	}
	return out
}

// Every input changes the prediction, in the PCRs that measure it. PCR 10 follows
// any of the first ten.
func TestEveryInputCounts(t *testing.T) {
	base := mustPredict(t, defaults())
	tests := map[string]struct {
		change func(a *artifacts)
		want   []int
	}{
		"kernel":       {func(a *artifacts) { a.uki[".linux"][700]++ }, []int{4, 10, 11}},
		"initrd":       {func(a *artifacts) { a.uki[".initrd"][0]++ }, []int{4, 9, 10, 11}},
		"command line": {func(a *artifacts) { a.uki[".cmdline"] = []byte("other") }, []int{4, 9, 10, 11}},
		"spaces around the command line": {func(a *artifacts) {
			a.uki[".cmdline"] = []byte(" roothash=00 constellation.flavour=test\t quiet \n\n")
		}, []int{4, 10, 11}},
		"os-release":          {func(a *artifacts) { a.uki[".osrel"] = []byte("ID=x\n") }, []int{4, 9, 10, 11}},
		"uname":               {func(a *artifacts) { a.uki[".uname"] = []byte("6.12.1-rt") }, []int{4, 10, 11}},
		"SBAT":                {func(a *artifacts) { a.uki[".sbat"][0]++ }, []int{4, 10, 11}},
		"microcode added":     {func(a *artifacts) { a.uki[".ucode"] = []byte("ucode") }, []int{4, 9, 10, 11}},
		"splash added":        {func(a *artifacts) { a.uki[".splash"] = []byte("bmp") }, []int{4, 10, 11}},
		"PCR signature added": {func(a *artifacts) { a.uki[".pcrsig"] = []byte("{}") }, []int{4, 9, 10}},
		"PCR key added":       {func(a *artifacts) { a.uki[".pcrpkey"] = []byte("key") }, []int{4, 9, 10, 11}},
		"moved partition":     {func(a *artifacts) { a.table.Partitions[2].FirstLBA++ }, []int{5, 10}},
		"partition name":      {func(a *artifacts) { a.table.Partitions[2].Name = "other" }, []int{5, 10}},
		"partition GUID":      {func(a *artifacts) { a.table.Partitions[1].ID[0]++ }, []int{5, 10}},
		"PEI volume":          {func(a *artifacts) { a.volumes.PEI[a.volumes.TimerOffset+8]++ }, []int{0, 10}},
		"DXE volume":          {func(a *artifacts) { a.volumes.DXE[len(a.volumes.DXE)-70]++ }, []int{0, 10}},
		"Secure Boot key": {func(a *artifacts) {
			a.variables = []artifacttest.Variable{{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("key")}}
		}, []int{7, 10}},
		"forbidden signatures": {func(a *artifacts) {
			a.variables = []artifacttest.Variable{{Vendor: ovmf.SecurityDatabase, Name: "dbx", Data: []byte("list")}}
		}, []int{7, 10}},
		"time stamp keys": {func(a *artifacts) {
			a.variables = []artifacttest.Variable{{Vendor: ovmf.SecurityDatabase, Name: "dbt", Data: []byte("list")}}
		}, []int{7, 10}},
		"ACPI tables":        {func(a *artifacts) { a.config["etc/acpi/tables"] = []byte("injected") }, []int{1, 10}},
		"ACPI loader script": {func(a *artifacts) { a.config["etc/table-loader"][200]++ }, []int{1, 10}},
		"disk in another slot": {func(a *artifacts) {
			a.machine.Devices[1], a.machine.Devices[2] = measurements.Device{Slot: 3, Model: measurements.ModelSerial}, measurements.Device{Slot: 4, Model: measurements.ModelDisk, Boot: true}
		}, []int{1, 10}},
		"other fw_cfg file": {func(a *artifacts) { a.config["etc/e820"] = []byte("x") }, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := defaults()
			a.uki = maps.Clone(a.uki)
			test.change(a)
			if diff := cmp.Diff(test.want, changed(base, mustPredict(t, a))); diff != "" {
				t.Error("changed PCRs (-want +got):", diff)
			}
		})
	}
}

// What cannot be computed is named, and everything that depends on it.
func TestUnpredicted(t *testing.T) {
	tests := map[string]struct {
		change func(a *artifacts)
		want   []int
	}{
		"no fw_cfg files":         {func(a *artifacts) { a.config = nil }, []int{1, 10}},
		"unknown PEI core":        {func(a *artifacts) { a.volumes.PEI[a.volumes.TimerOffset-32] = 0x90 }, []int{0, 10}},
		"IMA on the command line": {func(a *artifacts) { a.uki[".cmdline"] = []byte("ima_policy=tcb") }, []int{10}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := defaults()
			test.change(a)
			p := mustPredict(t, a)
			var got []int
			for _, u := range p.Unpredicted {
				got = append(got, u.PCR)
				if _, ok := p.PCRs[measurements.SHA256][u.PCR]; ok {
					t.Errorf("PCR %d has a value", u.PCR)
				}
				if u.Why == "" {
					t.Errorf("no word about why PCR %d is unpredicted", u.PCR)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error("(-want +got):", diff)
			}
		})
	}
}

// What an image says about itself reaches terminals and measurements.json.
func TestPredictionIsPrintable(t *testing.T) {
	a := defaults()
	long := strings.Repeat("x", 1000)
	a.uki[".osrel"] = []byte("IMAGE_ID=\"\x1b]0;evil\x07\"\nIMAGE_VERSION=1\x9b2J" + long + "\n")
	a.uki[".cmdline"] = []byte("ima\x1b[2J" + long + " constellation.flavour=\u202etest")
	a.config["etc/table-loader"] = a.config["etc/table-loader"][:128]
	copy(a.config["etc/table-loader"][4:], "etc/\x1b[2J\x00")
	a.config["etc/\x1b[2J"] = []byte("x")
	p := mustPredict(t, a)
	want := measurements.Image{Name: "?]0;evil?", Version: "1?2J" + long[:measurements.MaxName-4], Flavour: "?test"}
	got := p.Image
	got.Artifacts = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("image (-want +got):", diff)
	}
	if len(p.Unpredicted) != 1 || !strings.Contains(p.Unpredicted[0].Why, ": ima?[2Jxxx") || len(p.Unpredicted[0].Why) > 200 {
		t.Errorf("unpredicted: %+v", p.Unpredicted)
	}
	if !slices.ContainsFunc(p.Events, func(e measurements.Event) bool { return e.Description == "ACPI file etc/?[2J" }) {
		t.Error("the ACPI file has another description")
	}
	if _, err := p.JSON(); err != nil {
		t.Error(err)
	}
}
