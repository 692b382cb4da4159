// SPDX-License-Identifier: Apache-2.0

package initrd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/constellation-os/constellation/image/kernelmodule"
)

func TestBuild(t *testing.T) {
	modules := []kernelmodule.Module{
		{Name: "zlast_needed", Path: "usr/lib/modules/1/zlast-needed.ko", Content: []byte("one")},
		{Name: "first", Path: "usr/lib/modules/1/kernel/first.ko", Content: []byte("two")},
	}
	archive, parts, err := Build([]byte("program"), modules)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Build([]byte("program"), modules)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(archive, again) {
		t.Error("two builds of the same differ")
	}
	reader, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	plain, err := reader.DecodeAll(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The list keeps the loading order, whatever the order of names.
	if !strings.Contains(string(plain), "zlast-needed.ko\nfirst.ko\n") {
		t.Error("the list of modules does not have the loading order")
	}
	var names []string
	for _, part := range parts {
		names = append(names, part.Path)
		if part.Size == 0 || part.Compressed == 0 {
			t.Errorf("%s: sizes are %d and %d", part.Path, part.Size, part.Compressed)
		}
	}
	if want := "init modules/zlast-needed.ko modules/first.ko modules/load"; strings.Join(names, " ") != want {
		t.Errorf("parts are %v, want %s", names, want)
	}
}
