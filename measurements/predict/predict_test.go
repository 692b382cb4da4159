// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
)

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
