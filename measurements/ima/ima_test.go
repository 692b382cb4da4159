// SPDX-License-Identifier: Apache-2.0

package ima_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/ima"
)

// entry makes one entry of the list, with digest as its first byte.
func entry(pcr uint32, digest byte, template string, data []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, pcr)
	b = append(b, digest)
	b = append(b, make([]byte, 19)...)
	b = append(le.AppendUint32(b, uint32(len(template))), template...)
	return append(le.AppendUint32(b, uint32(len(data))), data...)
}

func field(s string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func TestParse(t *testing.T) {
	data := append(append(field("sha256:\x00digest"), field("boot_aggregate\x00")...), field("")...)
	list := append(entry(10, 1, "ima-sig", data), entry(10, 0, "ima-ng", append(field("x"), field("/bin/\x1b")...))...)
	got, err := ima.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	want := []ima.Entry{{PCR: 10, Template: "ima-sig", Data: data}, {PCR: 10, Template: "ima-ng"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if got[0].Name() != "boot_aggregate" || got[1].Name() != "" {
		t.Errorf("names %q and %q", got[0].Name(), got[1].Name())
	}
	named := ima.Entry{Data: append(field("x"), field("/bin/\x1b")...)}
	if named.Name() != "/bin/?" {
		t.Errorf("name %q", named.Name())
	}
}

func TestParseRefuses(t *testing.T) {
	good := entry(10, 1, "ima-ng", []byte("data"))
	change := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }
	tests := map[string]struct {
		list []byte
		want ima.Reason
	}{
		"cut in the header":   {good[:20], ima.ReasonTruncated},
		"cut in the name":     {good[:30], ima.ReasonTruncated},
		"cut in the data":     {good[:len(good)-1], ima.ReasonTruncated},
		"name of 4 GiB":       {change(func(b []byte) { copy(b[24:], "\xff\xff\xff\xff") }), ima.ReasonTooLarge},
		"data of 4 GiB":       {change(func(b []byte) { copy(b[34:], "\xff\xff\xff\xff") }), ima.ReasonTooLarge},
		"old template":        {entry(10, 1, "ima", []byte("data")), ima.ReasonTemplate},
		"more than the limit": {make([]byte, ima.MaxSize+1), ima.ReasonTooLarge},
		"too many entries":    {bytes.Repeat(entry(10, 1, "", nil), ima.MaxEntries+1), ima.ReasonTooLarge},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ima.Parse(test.list)
			var e *ima.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(entry(10, 1, "ima-sig", append(field("x"), field("boot_aggregate\x00")...)))
	f.Add(entry(10, 0, "ima-ng", nil))
	f.Fuzz(func(t *testing.T, list []byte) {
		entries, err := ima.Parse(list)
		if err != nil {
			var e *ima.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		for _, e := range entries {
			for _, c := range e.Name() {
				if c < 0x20 || c > 0x7e {
					t.Fatalf("name %q", e.Name())
				}
			}
		}
	})
}
