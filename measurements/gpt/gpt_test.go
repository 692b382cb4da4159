// SPDX-License-Identifier: Apache-2.0

package gpt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/constellation-os/constellation/measurements/gpt"
)

const sectors = 256

func table() *gpt.Table {
	return &gpt.Table{
		DiskID: gpt.MustParseGUID("01020304-0506-0708-090a-0b0c0d0e0f10"),
		Partitions: []gpt.Partition{
			{Type: gpt.TypeESP, ID: gpt.GUID{1}, FirstLBA: 40, LastLBA: 99, Attributes: 1, Name: "esp"},
			{Type: gpt.TypeRoot, ID: gpt.GUID{2}, FirstLBA: 100, LastLBA: 100, Name: strings.Repeat("\u00e4", 36)},
		},
	}
}

func disk(t testing.TB, table *gpt.Table) []byte {
	t.Helper()
	head, tail, err := table.Encode(sectors * gpt.SectorSize)
	if err != nil {
		t.Fatal(err)
	}
	d := make([]byte, sectors*gpt.SectorSize)
	copy(d, head)
	copy(d[len(d)-len(tail):], tail)
	return d
}

func TestRoundTrip(t *testing.T) {
	d := disk(t, table())
	got, err := gpt.Parse(bytes.NewReader(d), int64(len(d)))
	if err != nil {
		t.Fatal(err)
	}
	want := table()
	want.FirstUsableLBA, want.LastUsableLBA = 34, 222
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(gpt.Table{})); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if p := got.Partition(gpt.GUID{2}); p == nil || p.Offset() != 51200 || p.Size() != 512 {
		t.Errorf("second partition: %+v", p)
	}
}

// The event is the header, the number of used entries and these entries.
func TestEvent(t *testing.T) {
	d := disk(t, table())
	parsed, err := gpt.Parse(bytes.NewReader(d), int64(len(d)))
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte(nil), d[512:512+92]...)
	want = append(want, 2, 0, 0, 0, 0, 0, 0, 0)
	want = append(want, d[1024:1024+256]...)
	if !bytes.Equal(want, parsed.Event()) {
		t.Errorf("event of %d bytes differs, want %d bytes", len(parsed.Event()), len(want))
	}
}

func TestGUID(t *testing.T) {
	const text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	// The bytes of this GUID as they are on every disk with an ESP.
	want := gpt.GUID{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	got, err := gpt.ParseGUID(strings.ToUpper(text))
	if err != nil || got != want || got.String() != text {
		t.Errorf("got %s (% x), %v", got, got[:], err)
	}
	for _, bad := range []string{"", "c12a7328", text + "0", strings.Replace(text, "-", "0", 1), strings.Replace(text, "c", "g", 1)} {
		if _, err := gpt.ParseGUID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// reseal recomputes the checksums of both headers after fn changed the disk.
func reseal(d []byte) {
	le := binary.LittleEndian
	for _, at := range []int{512, len(d) - 512} {
		h := d[at : at+92]
		entries := d[le.Uint64(h[72:])*512:][:le.Uint32(h[80:])*128]
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	}
}

func TestParseRefuses(t *testing.T) {
	le := binary.LittleEndian
	const primary, entries, backupEntries, backup = 512, 1024, (sectors - 33) * 512, (sectors - 1) * 512
	both := func(d []byte, off int, v byte) { d[entries+off], d[backupEntries+off] = v, v }
	tests := map[string]struct {
		change func(d []byte) []byte
		want   gpt.Reason
	}{
		"empty":                       {func([]byte) []byte { return nil }, gpt.ReasonTruncated},
		"no multiple of a sector":     {func(d []byte) []byte { return d[:len(d)-1] }, gpt.ReasonTruncated},
		"last sector missing":         {func(d []byte) []byte { return d[:len(d)-512] }, gpt.ReasonBackup},
		"a sector more":               {func(d []byte) []byte { return append(d, make([]byte, 512)...) }, gpt.ReasonBackup},
		"no protective MBR":           {func(d []byte) []byte { d[510] = 0; return d }, gpt.ReasonNoTable},
		"hybrid MBR":                  {func(d []byte) []byte { d[446+16+4] = 0x83; return d }, gpt.ReasonNoTable},
		"no signature":                {func(d []byte) []byte { d[primary] = 0; return d }, gpt.ReasonNoTable},
		"other revision":              {func(d []byte) []byte { d[primary+8] = 1; reseal(d); return d }, gpt.ReasonHeader},
		"header checksum":             {func(d []byte) []byte { d[primary+56]++; return d }, gpt.ReasonChecksum},
		"entry checksum":              {func(d []byte) []byte { d[entries+40]++; return d }, gpt.ReasonChecksum},
		"checksum of the copy":        {func(d []byte) []byte { d[backup+16]++; return d }, gpt.ReasonChecksum},
		"copies with other disk GUID": {func(d []byte) []byte { d[backup+56]++; reseal(d); return d }, gpt.ReasonBackup},
		"copies with other entries":   {func(d []byte) []byte { d[backupEntries+32]++; reseal(d); return d }, gpt.ReasonBackup},
		"header elsewhere":            {func(d []byte) []byte { d[primary+24] = 2; reseal(d); return d }, gpt.ReasonHeader},
		"entries of other size":       {func(d []byte) []byte { d[primary+84], d[backup+84] = 0, 0; reseal(d); return d }, gpt.ReasonHeader},
		"no entries":                  {func(d []byte) []byte { d[primary+80], d[backup+80] = 0, 0; reseal(d); return d }, gpt.ReasonHeader},
		"4 billion entries": {func(d []byte) []byte {
			le.PutUint32(d[primary+80:], 1<<32-1)
			h := d[primary : primary+92]
			le.PutUint32(h[16:], 0)
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
			return d
		}, gpt.ReasonTooLarge},
		"usable sectors over the entries": {func(d []byte) []byte { d[primary+40], d[backup+40] = 2, 2; reseal(d); return d }, gpt.ReasonHeader},
		"partition outside":               {func(d []byte) []byte { both(d, 40, 250); reseal(d); return d }, gpt.ReasonEntry},
		"partition ends before it begins": {func(d []byte) []byte { both(d, 40, 39); reseal(d); return d }, gpt.ReasonEntry},
		"overlapping partitions":          {func(d []byte) []byte { both(d, 40, 100); reseal(d); return d }, gpt.ReasonOverlap},
		"two partitions with one GUID":    {func(d []byte) []byte { both(d, 128+16, 1); reseal(d); return d }, gpt.ReasonOverlap},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := test.change(disk(t, table()))
			_, err := gpt.Parse(bytes.NewReader(d), int64(len(d)))
			var e *gpt.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	with := func(f func(t *gpt.Table)) *gpt.Table { x := table(); f(x); return x }
	tests := map[string]struct {
		table *gpt.Table
		size  int64
		want  gpt.Reason
	}{
		"disk too small":         {table(), 10 * 512, gpt.ReasonTruncated},
		"no multiple of sectors": {table(), sectors*512 + 1, gpt.ReasonTruncated},
		"outside":                {with(func(t *gpt.Table) { t.Partitions[1].LastLBA = 250 }), sectors * 512, gpt.ReasonEntry},
		"overlap":                {with(func(t *gpt.Table) { t.Partitions[1].FirstLBA = 99 }), sectors * 512, gpt.ReasonEntry},
		"long name":              {with(func(t *gpt.Table) { t.Partitions[0].Name = strings.Repeat("x", 37) }), sectors * 512, gpt.ReasonEntry},
		"too many":               {with(func(t *gpt.Table) { t.Partitions = make([]gpt.Partition, 129) }), sectors * 512, gpt.ReasonTooLarge},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := test.table.Encode(test.size)
			var e *gpt.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

// mayReseal says whether both headers point to entries within the disk.
func mayReseal(d []byte) bool {
	for _, at := range []int{512, len(d) - 512} {
		first, n := binary.LittleEndian.Uint64(d[at+72:]), binary.LittleEndian.Uint32(d[at+80:])
		if first > sectors || n > gpt.MaxEntries || first*512+uint64(n)*128 > uint64(len(d)) {
			return false
		}
	}
	return true
}

func FuzzParse(f *testing.F) {
	// Only what decides is mutated; the rest of the disk stays.
	base := disk(f, table())
	f.Add(base[446:512], base[512:604], base[1024:1280], base[len(base)-512:len(base)-420], true)
	f.Fuzz(func(t *testing.T, mbr, primary, entries, backup []byte, both bool) {
		d := bytes.Clone(base)
		copy(d[446:512], mbr)
		copy(d[512:604], primary)
		copy(d[1024:2048], entries)
		copy(d[len(d)-512:], backup)
		if both { // else nearly every mutation would end at a difference or checksum
			copy(d[(sectors-33)*gpt.SectorSize:], d[1024:2048])
			if mayReseal(d) {
				reseal(d)
			}
		}
		parsed, err := gpt.Parse(bytes.NewReader(d), int64(len(d)))
		if err != nil {
			var e *gpt.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		for _, p := range parsed.Partitions {
			if p.Offset() < 0 || p.Offset()+p.Size() > int64(len(d)) {
				t.Fatalf("partition %+v outside of the disk", p)
			}
		}
		if len(parsed.Event()) != 100+128*len(parsed.Partitions) {
			t.Fatalf("event of %d bytes", len(parsed.Event()))
		}
	})
}
