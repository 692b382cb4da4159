// SPDX-License-Identifier: Apache-2.0

package cpio

import (
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	got, err := Write([]Entry{
		{Path: "dir/file", Mode: Regular | 0o644, Content: []byte("hello")},
		{Path: "dir", Mode: Directory | 0o755},
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

func TestWriteRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		entries []Entry
	}{
		{"absolute path", []Entry{{Path: "/init"}}},
		{"path above the root", []Entry{{Path: "../init"}}},
		{"path that is not clean", []Entry{{Path: "dir/"}}},
		{"no path", []Entry{{}}},
		{"same path twice", []Entry{{Path: "init"}, {Path: "init"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Write(test.entries); err == nil {
				t.Error("is accepted")
			}
		})
	}
}
