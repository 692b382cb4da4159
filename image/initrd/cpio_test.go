// SPDX-License-Identifier: Apache-2.0

package initrd

import (
	"strings"
	"testing"
)

func TestWriteCPIO(t *testing.T) {
	got, err := writeCPIO([]entry{
		{path: "dir/file", mode: modeRegular | 0o644, content: []byte("hello")},
		{path: "dir", mode: modeDirectory | 0o755},
	})
	if err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 8)
	want := "070701" + "00000001" + "000041ed" + zeros + zeros + "00000002" + zeros + zeros +
		zeros + zeros + zeros + zeros + "00000004" + zeros + "dir\x00" + "\x00\x00" +
		"070701" + "00000002" + "000081a4" + zeros + zeros + "00000001" + zeros + "00000005" +
		zeros + zeros + zeros + zeros + "00000009" + zeros + "dir/file\x00" + "\x00" + "hello" + "\x00\x00\x00" +
		"070701" + zeros + zeros + zeros + zeros + "00000001" + zeros + zeros +
		zeros + zeros + zeros + zeros + "0000000b" + zeros + "TRAILER!!!\x00" + "\x00\x00\x00"
	if string(got) != want {
		t.Errorf("archive is\n%q\nwant\n%q", got, want)
	}
}

func TestWriteCPIORefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		entries []entry
	}{
		{"absolute path", []entry{{path: "/init"}}},
		{"path above the root", []entry{{path: "../init"}}},
		{"path that is not clean", []entry{{path: "dir/"}}},
		{"no path", []entry{{}}},
		{"same path twice", []entry{{path: "init"}, {path: "init"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := writeCPIO(test.entries); err == nil {
				t.Error("is accepted")
			}
		})
	}
}
