// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/constellation-os/constellation/measurements"
)

func TestReadPCRs(t *testing.T) {
	both := map[measurements.Algorithm]tpm2.TPMAlgID{
		measurements.SHA256: tpm2.TPMAlgSHA256, measurements.SHA384: tpm2.TPMAlgSHA384,
	}
	tests := map[string]struct {
		tpm   *fakeTPM
		banks []measurements.Algorithm
		err   string
	}{
		"both banks":       {tpm: tpmWith(tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384), banks: []measurements.Algorithm{"sha256", "sha384"}},
		"no SHA-384":       {tpm: tpmWith(tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256), banks: []measurements.Algorithm{"sha256"}},
		"no SHA-256":       {tpm: tpmWith(tpm2.TPMAlgSHA384), err: "no active SHA-256 bank"},
		"one at a time":    {tpm: &fakeTPM{banks: map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: allPCRs}, perCall: 1}, banks: []measurements.Algorithm{"sha256"}},
		"withholding":      {tpm: &fakeTPM{banks: map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: allPCRs}}, err: "withholds 16 of 16"},
		"truncated answer": {tpm: &fakeTPM{banks: map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: allPCRs}, broken: func(b []byte) []byte { return b[:3] }}, err: "ask the TPM"},
		"short digests": {tpm: &fakeTPM{banks: map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: allPCRs}, perCall: 1, broken: func(b []byte) []byte {
			if len(b) < 40 {
				return b // the capabilities
			}
			b = b[:len(b)-16]
			binary.BigEndian.PutUint16(b[len(b)-18:], 16)
			return b
		}}, err: "does not fit its selection"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ReadPCRs(tc.tpm)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want %q in it", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := measurements.Banks{}
			for _, bank := range tc.banks {
				want[bank] = measurements.PCRs{}
				for pcr := range 16 {
					want[bank][pcr] = tc.tpm.value(both[bank], pcr)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("banks (-want +got):\n%s", diff)
			}
		})
	}
}

// event is one entry of a log under construction.
type event struct {
	pcr     uint32
	kind    uint32
	content string
}

// encodeLog writes a crypto-agile log with SHA-256 and SHA-384 digests (TCG PC
// Client Platform Firmware Profile, section 10).
func encodeLog(events ...event) []byte {
	var b bytes.Buffer
	put := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f)
		}
	}
	const sha256ID, sha384ID = uint16(0xb), uint16(0xc)
	put(uint32(0), uint32(3), [20]byte{}, uint32(37), []byte("Spec ID Event03\x00"), uint32(0), [4]byte{0, 2, 0, 2},
		uint32(2), sha256ID, uint16(32), sha384ID, uint16(48), uint8(0))
	for _, e := range events {
		digests := measurements.Sum([]byte(e.content))
		put(e.pcr, e.kind, uint32(2), sha256ID, []byte(digests[measurements.SHA256]), sha384ID, []byte(digests[measurements.SHA384]),
			uint32(len(e.content)), []byte(e.content))
	}
	return b.Bytes()
}

// extended are the PCRs after the contents were measured into one of them.
func extended(pcr int, contents ...string) measurements.Banks {
	banks := measurements.Banks{}
	for _, a := range measurements.Algorithms() {
		banks[a] = measurements.PCRs{}
		for i := range 16 {
			banks[a][i] = a.Zero()
		}
		for _, c := range contents {
			banks[a][pcr] = a.Extend(banks[a][pcr], measurements.Sum([]byte(c))[a])
		}
	}
	return banks
}

func TestReplay(t *testing.T) {
	const action, noAction = 0x80000007, 3
	tests := map[string]struct {
		log       []byte
		banks     measurements.Banks
		differing []int
		events    int // of PCR 4
		err       bool
	}{
		"agrees":        {log: encodeLog(event{4, action, "a"}, event{4, action, "b"}), banks: extended(4, "a", "b"), events: 2},
		"reordered":     {log: encodeLog(event{4, action, "b"}, event{4, action, "a"}), banks: extended(4, "a", "b"), events: 2, differing: []int{4}},
		"dropped":       {log: encodeLog(event{4, action, "a"}), banks: extended(4, "a", "b"), events: 1, differing: []int{4}},
		"unmeasured":    {log: encodeLog(event{4, action, "a"}, event{5, action, "x"}), banks: extended(4, "a"), events: 1, differing: []int{5}},
		"not extending": {log: encodeLog(event{4, noAction, "x"}, event{4, action, "a"}), banks: extended(4, "a"), events: 1},
		"kernel's own":  {log: encodeLog(), banks: extended(10, "aggregate")},
		"truncated":     {log: encodeLog(event{4, action, "a"})[:80], banks: extended(4, "a"), err: true},
		"empty":         {log: nil, banks: extended(4, "a"), err: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := NewReplay(tc.log, tc.banks)
			if (err != nil) != tc.err {
				t.Fatalf("got error %v, want one: %t", err, tc.err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tc.differing, r.Differing()); diff != "" {
				t.Errorf("differing PCRs (-want +got):\n%s", diff)
			}
			if r.Events[4] != tc.events {
				t.Errorf("PCR 4 has %d events, want %d", r.Events[4], tc.events)
			}
		})
	}
}

func TestReportOfAMachineWithoutTPM(t *testing.T) {
	r := Read(Sources{TPM: filepath.Join(t.TempDir(), "tpmrm0")})
	if len(r.Problems) == 0 || !errors.Is(r.Problems[0], ErrNoTPM) {
		t.Fatalf("problems are %v, want %v first", r.Problems, ErrNoTPM)
	}
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "! this machine has no TPM 2.0") {
		t.Errorf("the table does not say so:\n%s", &table)
	}
	// The host still gets a report that it can read.
	line, err := json.Marshal(r.Observed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := measurements.ParseObserved(line); err != nil {
		t.Error(err)
	}
}

func TestReportSaysWhatDiffers(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, encodeLog(event{4, 0x80000007, "b"}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Report{Observed: measurements.Observed{Version: measurements.Version, PCRs: extended(4, "a")}}
	r.readEventLog(log)
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"! the event log does not lead to the values of PCR 4\n", "  1       differs\n", "  0       agrees\n"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
}

func TestReadLimited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := readLimited(path, 100); err != nil || len(data) != 100 {
		t.Errorf("at the limit: %d bytes, %v", len(data), err)
	}
	if _, err := readLimited(path, 99); err == nil {
		t.Error("a file past the limit was read")
	}
	if _, err := readLimited("", 99); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestPort(t *testing.T) {
	class, devices := t.TempDir(), t.TempDir()
	for device, name := range map[string]string{"vport1p1": "org.example.other\n", "vport1p2": Port + "\n"} {
		if err := os.Mkdir(filepath.Join(class, device), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, device, "name"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	device, err := FindPort(class, devices)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(devices, "vport1p2"); device != want {
		t.Errorf("the port is %s, want %s", device, want)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := measurements.Observed{Version: measurements.Version, PCRs: extended(4, "a"), EventLog: encodeLog()}
	if err := (&Report{Observed: want}).Send(device); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
		t.Error("the report is not one line")
	}
	got, err := measurements.ParseObserved(line)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("sent report (-want +got):\n%s", diff)
	}
	if _, err := AwaitPort(t.TempDir(), devices, t.TempDir()); !errors.Is(err, ErrNoPort) {
		t.Errorf("without ports: got %v, want %v", err, ErrNoPort)
	}
}
