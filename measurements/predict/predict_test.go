// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/esp"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/predict"
)

// artifacts are the inputs of a prediction before they are put together.
type artifacts struct {
	uki       artifacttest.UKISections
	files     []artifacttest.File
	table     *gpt.Table
	volumes   artifacttest.Volumes
	variables []artifacttest.Variable
	machine   measurements.Machine
	config    map[string][]byte
	stub      string // if not the default
}

func defaults() *artifacts {
	return &artifacts{
		uki:     artifacttest.DefaultUKI(),
		table:   artifacttest.Table(),
		volumes: artifacttest.FirmwareVolumes(false),
		machine: measurements.QEMU(),
		config:  acpiFiles(),
	}
}

// acpiFiles are fw_cfg files: a script that allocates two files.
func acpiFiles() map[string][]byte {
	script := make([]byte, 3*128)
	script[0] = 1
	copy(script[4:], "etc/acpi/rsdp")
	script[128] = 3 // another command
	script[256] = 1
	copy(script[260:], "etc/acpi/tables")
	return map[string][]byte{"etc/table-loader": script, "etc/acpi/rsdp": []byte("rsdp"), "etc/acpi/tables": []byte("tables"), "etc/e820": []byte("not measured")}
}

func (a *artifacts) input() predict.Input {
	uki := a.uki.Encode()
	if a.stub != "" {
		uki = bytes.Replace(uki, []byte("systemd-stub 257"), []byte("systemd-stub "+a.stub[:3]), 1)
	}
	files := append([]artifacttest.File{{Path: artifacttest.BootFile, Content: uki}}, a.files...)
	disk := artifacttest.DiskOf(a.table, artifacttest.ESP(files...))
	return predict.Input{
		Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)),
		FirmwareCode: a.volumes.Code(), FirmwareVariables: artifacttest.FirmwareVariables(a.variables...),
		Machine: a.machine, FirmwareConfig: a.config,
	}
}

func mustPredict(t *testing.T, a *artifacts) *measurements.Prediction {
	t.Helper()
	p, err := predict.Predict(a.input())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// event is what a test expects: bytes, hashed here and not by what is tested.
type event struct {
	pcr  int
	data []byte
}

func variableData(vendor gpt.GUID, name, data string) []byte {
	out := append([]byte(nil), vendor[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(name)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	utf := artifacttest.UTF16(name)
	return append(append(out, utf[:len(utf)-2]...), data...)
}

// withoutChecksum is a PE image less what Authenticode leaves out. It holds for
// images whose sections follow each other without gaps.
func withoutChecksum(image []byte) []byte {
	const checksum, directory = 64 + 24 + 64, 64 + 24 + 112 + 8*4
	end := len(image) - int(binary.LittleEndian.Uint32(image[directory+4:]))
	return slices.Concat(image[:checksum], image[checksum+4:directory], image[directory+8:end])
}

// expected is the list of events of default artifacts, written down by hand.
func expected(a *artifacts) []event {
	pei := bytes.Clone(a.volumes.PEI)
	copy(pei[a.volumes.TimerOffset:], []byte{0x08, 0x06, 0, 0})
	zero := make([]byte, 4)
	path := func(nodes string) string { return nodes + "\x7f\xff\x04\x00" }
	volume := "\x04\x07\x14\x00" + string(artifacttest.DXEVolume[:]) + "\x04\x06\x14\x00"
	menu := gpt.MustParseGUID("462caa21-7614-4503-836e-8ab6f4662331")
	shell := gpt.MustParseGUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
	auto := gpt.MustParseGUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")
	utf := func(s string) string { return string(artifacttest.UTF16(s)) }
	disk := artifacttest.DiskOf(a.table, nil)
	events := []event{
		{0, artifacttest.UTF16(artifacttest.FirmwareVersion)},
		{0, pei},
		{0, a.volumes.DXE},
		{7, variableData(ovmf.GlobalVariable, "SecureBoot", "")},
		{7, variableData(ovmf.GlobalVariable, "PK", "")},
		{7, variableData(ovmf.GlobalVariable, "KEK", "")},
		{7, variableData(ovmf.SecurityDatabase, "db", "")},
		{7, variableData(ovmf.SecurityDatabase, "dbx", "")},
		{7, zero},
		{1, a.config["etc/table-loader"]},
		{1, []byte("rsdp")},
		{1, []byte("tables")},
		{1, []byte{1, 0, 0, 0, 2, 0}},
		{1, []byte("\x01\x00\x00\x00\x16\x00" + utf("UEFI Misc Device") + path("\x02\x01\x0c\x00\xd0\x41\x03\x0a\x00\x00\x00\x00\x01\x01\x06\x00\x00\x03") + string(auto[:]))},
		{1, []byte("\x09\x01\x00\x00\x2c\x00" + utf("UiApp") + path(volume+string(menu[:])))},
		{1, []byte("\x01\x00\x00\x00\x2c\x00" + utf("EFI Internal Shell") + path(volume+string(shell[:])))},
		{4, []byte("Calling EFI Application from Boot Option")},
	}
	for pcr := range 7 {
		events = append(events, event{pcr, zero})
	}
	events = append(events,
		event{5, slices.Concat(disk[512:512+92], []byte{3, 0, 0, 0, 0, 0, 0, 0}, disk[1024:1024+3*128])},
		event{4, withoutChecksum(a.uki.Encode())})
	for _, name := range []string{".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"} {
		events = append(events, event{11, []byte(name + "\x00")}, event{11, a.uki[name]})
	}
	// /.extra/os-release, 33 bytes, as a cpio archive.
	z := func(n int) string { return strings.Repeat("00000000", n) }
	archive := "070701" + "00000001" + "0000416d" + z(2) + "00000001" + z(6) + "00000007" + z(1) + ".extra\x00" + "\x00\x00\x00" +
		"070701" + "00000002" + "00008124" + z(2) + "00000001" + z(1) + "00000021" + z(4) + "00000012" + z(1) + ".extra/os-release\x00" +
		string(a.uki[".osrel"]) + "\x00\x00\x00" +
		"070701" + z(4) + "00000001" + z(6) + "0000000B" + z(1) + "TRAILER!!!\x00\x00\x00\x00"
	return append(events,
		event{4, withoutChecksum(a.uki[".linux"])},
		event{9, artifacttest.UTF16("roothash=00 constellation.flavour=test  quiet")},
		event{9, slices.Concat(a.uki[".initrd"], []byte{0}, []byte(archive))},
		event{5, []byte("Exit Boot Services Invocation")},
		event{5, []byte("Exit Boot Services Returned with Success")})
}

// replay extends PCRs the way a TPM does.
func replay(events []event) (sha2, sha3 [16][]byte) {
	for i := range sha2 {
		sha2[i], sha3[i] = make([]byte, 32), make([]byte, 48)
	}
	for _, e := range events {
		d, f := sha256.Sum256(e.data), sha512.Sum384(e.data)
		v, w := sha256.Sum256(append(sha2[e.pcr], d[:]...)), sha512.Sum384(append(sha3[e.pcr], f[:]...))
		sha2[e.pcr], sha3[e.pcr] = v[:], w[:]
	}
	return sha2, sha3
}

func TestPredict(t *testing.T) {
	a := defaults()
	p := mustPredict(t, a)
	want := expected(a)
	values, _ := replay(want)
	// The kernel's boot aggregate, with the template's fields written out.
	aggregate := sha256.Sum256(slices.Concat(values[:10]...))
	want = append(want, event{10, slices.Concat([]byte{40, 0, 0, 0}, []byte("sha256:\x00"), aggregate[:], []byte{15, 0, 0, 0}, []byte("boot_aggregate\x00"), []byte{0, 0, 0, 0})})
	for i, e := range want {
		if i >= len(p.Events) {
			t.Fatalf("%d events predicted, want %d", len(p.Events), len(want))
		}
		d, f := sha256.Sum256(e.data), sha512.Sum384(e.data)
		got := p.Events[i]
		if got.PCR != e.pcr || !bytes.Equal(got.Digests[measurements.SHA256], d[:]) || !bytes.Equal(got.Digests[measurements.SHA384], f[:]) {
			t.Errorf("event %d (%s): PCR %d with another digest, want PCR %d", i, got.Description, got.PCR, e.pcr)
		}
	}
	if len(p.Events) != len(want) {
		t.Errorf("%d events predicted, want %d", len(p.Events), len(want))
	}
	values, values384 := replay(want)
	for pcr := range 16 {
		if !bytes.Equal(p.PCRs[measurements.SHA256][pcr], values[pcr]) || !bytes.Equal(p.PCRs[measurements.SHA384][pcr], values384[pcr]) {
			t.Errorf("PCR %d has another value", pcr)
		}
	}
	if diff := cmp.Diff([]int{4, 5, 7, 8, 9, 11, 12, 13, 14, 15}, p.Enforced); diff != "" {
		t.Error("enforced (-want +got):", diff)
	}
	if len(p.Unpredicted) != 0 {
		t.Errorf("unpredicted: %v", p.Unpredicted)
	}
	if p.Image.Name != "constellation" || p.Image.Version != "1" || p.Image.Flavour != "test" {
		t.Errorf("image is described as %+v", p.Image)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if q, err := measurements.ParsePrediction(data); err != nil || cmp.Diff(p, q) != "" {
		t.Errorf("JSON round trip: %v", err)
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

// reason extracts the typed reason of any package's error.
func reason(err error) string {
	var (
		p *predict.Error
		g *gpt.Error
		f *esp.Error
		i *pe.Error
		o *ovmf.Error
	)
	switch {
	case errors.As(err, &p):
		return "predict:" + string(p.Reason)
	case errors.As(err, &g):
		return "gpt:" + string(g.Reason)
	case errors.As(err, &f):
		return "esp:" + string(f.Reason)
	case errors.As(err, &i):
		return "pe:" + string(i.Reason)
	case errors.As(err, &o):
		return "ovmf:" + string(o.Reason)
	}
	return ""
}

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
