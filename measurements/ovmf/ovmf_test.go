// SPDX-License-Identifier: Apache-2.0

package ovmf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
)

func TestParseCode(t *testing.T) {
	volumes := artifacttest.FirmwareVolumes(false)
	code, err := ovmf.ParseCode(volumes.Code())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(code.PEI.Data, volumes.PEI) || !bytes.Equal(code.DXE.Data, volumes.DXE) {
		t.Error("the volumes differ from what was packed")
	}
	if code.DXE.Name != artifacttest.DXEVolume {
		t.Errorf("DXE volume is named %s", code.DXE.Name)
	}
	if code.SecureBoot() {
		t.Error("Secure Boot seen in a build without it")
	}
	version, err := code.Version()
	if err != nil || !bytes.Equal(version, artifacttest.UTF16(artifacttest.FirmwareVersion)) {
		t.Errorf("version %q, %v", version, err)
	}
	want := bytes.Clone(volumes.PEI)
	binary.LittleEndian.PutUint32(want[volumes.TimerOffset:], 0x608)
	measured, err := code.MeasuredPEI()
	if err != nil || !bytes.Equal(measured, want) {
		t.Errorf("measured PEI volume: %v, differs: %v", err, !bytes.Equal(measured, want))
	}
	secure, err := ovmf.ParseCode(artifacttest.FirmwareVolumes(true).Code())
	if err != nil || !secure.SecureBoot() {
		t.Errorf("Secure Boot not seen in a build with it: %v", err)
	}
}

// Firmware whose PEI core is another: the event is unknown, not guessed.
func TestMeasuredPEIUnknown(t *testing.T) {
	for name, change := range map[string]func(core []byte){
		"no store":              func(c []byte) { c[8] = 0x90 },
		"another port":          func(c []byte) { c[14] = 0x09 },
		"store outside":         func(c []byte) { binary.LittleEndian.PutUint32(c[10:], 1<<30) },
		"store before":          func(c []byte) { binary.LittleEndian.PutUint32(c[10:], 1<<31) },
		"store over other data": func(c []byte) { c[40] = 1 },
	} {
		v := artifacttest.FirmwareVolumes(false)
		change(v.PEI[v.TimerOffset-40:])
		code, err := ovmf.ParseCode(v.Code())
		if err != nil {
			t.Fatal(err)
		}
		_, err = code.MeasuredPEI()
		var e *ovmf.Error
		if !errors.As(err, &e) || e.Reason != ovmf.ReasonMissing {
			t.Errorf("%s: got %v, want reason %s", name, err, ovmf.ReasonMissing)
		}
	}
}

func TestParseCodeRefuses(t *testing.T) {
	good := artifacttest.FirmwareCode
	le := binary.LittleEndian
	checksum := func(b []byte) {
		le.PutUint16(b[50:], 0)
		sum := uint16(0)
		for i := 0; i < 72; i += 2 {
			sum -= le.Uint16(b[i:])
		}
		le.PutUint16(b[50:], sum)
	}
	lzmaAt := bytes.Index(good(), gptBytes("ee4e5898-3914-4259-9d6e-dc7bd79403cf"))
	change := func(f func(b []byte)) []byte { b := good(); f(b); return b }
	tests := map[string]struct {
		flash []byte
		want  ovmf.Reason
	}{
		"empty":                          {nil, ovmf.ReasonTruncated},
		"larger than the limit":          {make([]byte, ovmf.MaxFlashSize+1), ovmf.ReasonTooLarge},
		"zeros":                          {make([]byte, 1024), ovmf.ReasonVolume},
		"cut":                            {good()[:200], ovmf.ReasonTruncated},
		"other file system":              {change(func(b []byte) { b[16]++ }), ovmf.ReasonVolume},
		"header checksum":                {change(func(b []byte) { b[60]++ }), ovmf.ReasonVolume},
		"header of 6 bytes":              {change(func(b []byte) { le.PutUint16(b[48:], 6) }), ovmf.ReasonTruncated},
		"extended header beyond":         {change(func(b []byte) { le.PutUint16(b[52:], 65535); checksum(b) }), ovmf.ReasonVolume},
		"file beyond":                    {change(func(b []byte) { b[96+20], b[96+21], b[96+22] = 0xff, 0xff, 0xff }), ovmf.ReasonTruncated},
		"file shorter than its header":   {change(func(b []byte) { b[96+20], b[96+21], b[96+22] = 1, 0, 0 }), ovmf.ReasonTruncated},
		"no volumes":                     {change(func(b []byte) { b[96+18] = 1 }), ovmf.ReasonMissing},
		"other compression":              {change(func(b []byte) { b[lzmaAt]++ }), ovmf.ReasonCompression},
		"data beyond":                    {change(func(b []byte) { le.PutUint16(b[lzmaAt+16:], 65535) }), ovmf.ReasonCompression},
		"dictionary of 4 GiB":            {change(func(b []byte) { le.PutUint32(b[lzmaAt+20+1:], 1<<32-1) }), ovmf.ReasonTooLarge},
		"unpacked size of 2^63":          {change(func(b []byte) { le.PutUint64(b[lzmaAt+20+5:], 1<<63) }), ovmf.ReasonTooLarge},
		"unpacked size too large by far": {change(func(b []byte) { le.PutUint64(b[lzmaAt+20+5:], 60<<20) }), ovmf.ReasonCompression},
		"broken stream":                  {change(func(b []byte) { copy(b[lzmaAt+60:], make([]byte, 40)) }), ovmf.ReasonCompression},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ovmf.ParseCode(test.flash)
			var e *ovmf.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func gptBytes(s string) []byte { g := gpt.MustParseGUID(s); return g[:] }

func TestParseVariables(t *testing.T) {
	flash := artifacttest.FirmwareVariables(
		artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("old"), State: 0x3c}, // deleted
		artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("replaced"), State: 0x3e},
		artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("new")},
		artifacttest.Variable{Vendor: ovmf.SecurityDatabase, Name: "db", Data: []byte("only this"), State: 0x3e},
		artifacttest.Variable{Vendor: ovmf.SecurityDatabase, Name: "dbx", Data: nil},
	)
	got, err := ovmf.ParseVariables(flash)
	if err != nil {
		t.Fatal(err)
	}
	want := ovmf.Variables{
		{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("new")},
		{Vendor: ovmf.SecurityDatabase, Name: "dbx", Data: []byte{}},
		{Vendor: ovmf.SecurityDatabase, Name: "db", Data: []byte("only this")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

func TestParseVariablesRefuses(t *testing.T) {
	variable := artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("x")}
	change := func(f func(b []byte)) []byte { b := artifacttest.FirmwareVariables(variable); f(b); return b }
	le := binary.LittleEndian
	tests := map[string]struct {
		flash []byte
		want  ovmf.Reason
	}{
		"empty":             {nil, ovmf.ReasonTruncated},
		"code image":        {artifacttest.FirmwareCode(), ovmf.ReasonVariables},
		"other store":       {change(func(b []byte) { b[72]++ }), ovmf.ReasonVariables},
		"store not healthy": {change(func(b []byte) { b[72+21] = 0 }), ovmf.ReasonVariables},
		"store too large":   {change(func(b []byte) { le.PutUint32(b[72+16:], 1<<32-1) }), ovmf.ReasonTruncated},
		"name of odd size":  {change(func(b []byte) { le.PutUint32(b[100+36:], 3) }), ovmf.ReasonVariables},
		"name of 4 GiB":     {change(func(b []byte) { le.PutUint32(b[100+36:], 1<<32-2) }), ovmf.ReasonVariables},
		"data of 4 GiB":     {change(func(b []byte) { le.PutUint32(b[100+40:], 1<<32-1) }), ovmf.ReasonVariables},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ovmf.ParseVariables(test.flash)
			var e *ovmf.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func FuzzParseCode(f *testing.F) {
	f.Add(artifacttest.FirmwareCode())
	f.Add(artifacttest.FirmwareVolumes(true).PEI)
	f.Fuzz(func(t *testing.T, b []byte) {
		code, err := ovmf.ParseCode(b)
		if err == nil {
			_, err = code.Version()
			if _, err2 := code.MeasuredPEI(); err == nil {
				err = err2
			}
		}
		var e *ovmf.Error
		if err != nil && (!errors.As(err, &e) || e.Reason == "") {
			t.Fatalf("error without a reason: %v", err)
		}
	})
}

func FuzzParseVariables(f *testing.F) {
	f.Add(artifacttest.FirmwareVariables(artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("x")})[:512])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ovmf.ParseVariables(b)
		var e *ovmf.Error
		if err != nil && (!errors.As(err, &e) || e.Reason == "") {
			t.Fatalf("error without a reason: %v", err)
		}
	})
}
