// SPDX-License-Identifier: Apache-2.0

//go:build linux

package devicemapper

import (
	"bytes"
	"strings"
	"testing"
)

func TestLoadRequest(t *testing.T) {
	table := Table{Name: "root", UUID: "CRYPT-VERITY-x", Sectors: 0x1234, Target: "verity", Parameters: "1 254:2"}
	got, err := newLoad(table, flagReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 312+48)
	want[0] = 4                           // version 4.0.0
	want[12], want[13] = 0x68, 0x01       // 360 bytes in all
	want[16], want[17] = 0x38, 0x01       // the target begins after 312
	want[20] = 1                          // one target
	want[28], want[29] = 1, 0x80          // read-only, and the kernel wipes its copy
	copy(want[48:], "root")               // and no UUID: a device is named either way
	want[312+8], want[312+9] = 0x34, 0x12 // its length in sectors
	want[312+20] = 48                     // the next target would begin after 48
	copy(want[312+24:], "verity")
	copy(want[312+40:], "1 254:2")
	if !bytes.Equal(got, want) {
		t.Errorf("request is\n%x\nwant\n%x", got, want)
	}
}

func TestRequestRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		table Table
	}{
		{"no name", Table{Target: "verity"}},
		{"long name", Table{Name: strings.Repeat("n", 128), Target: "verity"}},
		{"long UUID", Table{Name: "n", UUID: strings.Repeat("u", 129), Target: "verity"}},
		{"no target", Table{Name: "n"}},
		{"long target", Table{Name: "n", Target: strings.Repeat("t", 16)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := newLoad(test.table, 0); err == nil {
				t.Error("is accepted")
			}
		})
	}
}

func TestParseState(t *testing.T) {
	answer := make([]byte, 4096)
	answer[16], answer[17] = 0x38, 0x01 // the target begins after 312
	answer[20] = 1
	answer[40], answer[41] = 3, 253 // device 253:3
	copy(answer[176:], "CRYPT-LUKS2-x")
	answer[312+9] = 0x10
	copy(answer[312+24:], "crypt")
	copy(answer[312+40:], "0 4096 -")
	want := State{UUID: "CRYPT-LUKS2-x", Major: 253, Minor: 3, Sectors: 4096, Status: "0 4096 -"}
	if got := parseState(answer); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	answer[20] = 0 // a device without a table
	if got := parseState(answer); got.Status != "" || got.Sectors != 0 || got.Minor != 3 {
		t.Errorf("without a table: %+v", got)
	}
	answer[20], answer[19] = 1, 0xff // the target is said to be elsewhere
	if got := parseState(answer); got.Status != "" {
		t.Errorf("with a target outside of the answer: %+v", got)
	}
}
