// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/constellation-os/constellation/measurements/gpt"
)

const hash = "00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0"

func TestParseCommandLine(t *testing.T) {
	got, err := parseCommandLine("console=ttyS0 roothash=" + hash + " constellation.rootblocks=13 quiet\n")
	if err != nil {
		t.Fatal(err)
	}
	if got.hash.String() != hash || got.blocks != 13 {
		t.Errorf("root is %+v", got)
	}
}

func TestParseCommandLineRefuses(t *testing.T) {
	good := "roothash=" + hash + " constellation.rootblocks=13"
	for _, test := range []struct{ name, line, reason string }{
		{"empty", "", "roothash= is missing"},
		{"no blocks", "roothash=" + hash, "constellation.rootblocks= is missing"},
		{"hash twice", good + " roothash=" + hash, "roothash= is there twice"},
		{"blocks twice", good + " constellation.rootblocks=13", "constellation.rootblocks= is there twice"},
		{"short hash", "roothash=00 constellation.rootblocks=13", "not 64 lower-case"},
		{"upper case", strings.ToUpper(good), "is missing"},
		{"no number", "roothash=" + hash + " constellation.rootblocks=x", "is not a number"},
		{"zero", "roothash=" + hash + " constellation.rootblocks=0", "is not a number"},
		{"negative", "roothash=" + hash + " constellation.rootblocks=-1", "is not a number"},
		{"too many", "roothash=" + hash + " constellation.rootblocks=268435457", "is not a number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := parseCommandLine(test.line); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}

var (
	wanted = gpt.MustParseGUID("00112233-4455-6677-8899-aabbccddeeff")
	other  = gpt.MustParseGUID("10112233-4455-6677-8899-aabbccddeeff")
)

// machine is the kernel's list of a machine with the disks vda (of somebody else), vdb and vdc (with the partition).
func machine() (fstest.MapFS, map[string]*gpt.Table) {
	blocks := fstest.MapFS{}
	add := func(name, kind string, major, minor, start, size int) {
		blocks[name+"/uevent"] = &fstest.MapFile{Data: fmt.Appendf(nil, "MAJOR=%d\nMINOR=%d\nDEVNAME=%s\nDEVTYPE=%s\n", major, minor, name, kind)}
		blocks[name+"/size"] = &fstest.MapFile{Data: fmt.Appendf(nil, "%d\n", size)}
		if kind == "partition" {
			blocks[name+"/start"] = &fstest.MapFile{Data: fmt.Appendf(nil, "%d\n", start)}
		}
	}
	add("vda", "disk", 254, 0, 0, 1000)
	add("vda1", "partition", 254, 1, 100, 50)
	add("vdb", "disk", 254, 16, 0, 1000)
	add("vdb1", "partition", 254, 17, 100, 50)
	add("vdb2", "partition", 254, 18, 200, 50)
	add("vdc", "disk", 254, 32, 0, 1000)
	add("vdc1", "partition", 254, 33, 100, 50)
	partitions := []gpt.Partition{{ID: other, FirstLBA: 100, LastLBA: 149}, {ID: wanted, FirstLBA: 200, LastLBA: 249}}
	return blocks, map[string]*gpt.Table{
		"vdb": {Partitions: partitions},
		"vdc": {Partitions: []gpt.Partition{{ID: wanted, FirstLBA: 100, LastLBA: 149}}},
	}
}

func TestFindPartition(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(fstest.MapFS, map[string]*gpt.Table)
		want   partition
		found  bool
	}{
		{"first disk by name that has it", func(fstest.MapFS, map[string]*gpt.Table) {}, partition{"vdb2", "254:18"}, true},
		{"first disk is gone", func(b fstest.MapFS, _ map[string]*gpt.Table) {
			delete(b, "vdb/uevent")
		}, partition{"vdc1", "254:33"}, true},
		{"kernel has not made the partition yet", func(b fstest.MapFS, tables map[string]*gpt.Table) {
			delete(b, "vdb2/uevent")
			delete(tables, "vdc")
		}, partition{}, false},
		{"kernel sees another size", func(b fstest.MapFS, tables map[string]*gpt.Table) {
			b["vdb2/size"].Data = []byte("51\n")
			delete(tables, "vdc")
		}, partition{}, false},
		{"nobody has it", func(_ fstest.MapFS, tables map[string]*gpt.Table) {
			tables["vdb"].Partitions = tables["vdb"].Partitions[:1]
			delete(tables, "vdc")
		}, partition{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			blocks, tables := machine()
			test.change(blocks, tables)
			read := func(disk string, size int64) (*gpt.Table, error) {
				if size != 1000*512 {
					t.Errorf("%s has %d bytes", disk, size)
				}
				if table := tables[disk]; table != nil {
					return table, nil
				}
				return nil, errors.New("no table")
			}
			got, found := findPartition(blocks, read, wanted)
			if got != test.want || found != test.found {
				t.Errorf("found %+v, %v; want %+v, %v", got, found, test.want, test.found)
			}
		})
	}
}
