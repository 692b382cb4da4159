// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/esp"
	"github.com/constellation-os/constellation/measurements/gpt"
)

// memory is a disk in memory that grows.
type memory struct{ data []byte }

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if need := int(at) + len(p); need > len(m.data) {
		m.data = append(m.data, make([]byte, need-len(m.data))...)
	}
	return copy(m.data[at:], p), nil
}

func contents(t *testing.T) Contents {
	t.Helper()
	root := bytes.Repeat([]byte("root"), 300*1024)
	root = append(root, make([]byte, 8192)...)
	tree, hash, _, err := verity.Build(bytes.NewReader(root))
	if err != nil {
		t.Fatal(err)
	}
	return Contents{UKI: bytes.Repeat([]byte("uki"), 50_000), Root: root, Tree: tree, Hash: hash}
}

func TestWrite(t *testing.T) {
	c := contents(t)
	var disk memory
	size, err := Write(&disk, c)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(disk.data)) != size {
		t.Fatalf("disk has %d bytes, want %d", len(disk.data), size)
	}
	reader := bytes.NewReader(disk.data)
	table, err := gpt.Parse(reader, size)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != 3 {
		t.Fatalf("%d partitions, want 3", len(table.Partitions))
	}
	dataID, treeID := c.Hash.PartitionIDs()
	for i, want := range []struct {
		name     string
		kind, id gpt.GUID
	}{
		{"esp", gpt.TypeESP, table.Partitions[0].ID},
		{"root", gpt.TypeRoot, gpt.FromUUID(dataID)},
		{"root-verity", gpt.TypeRootVerity, gpt.FromUUID(treeID)},
	} {
		p := table.Partitions[i]
		if p.Name != want.name || p.Type != want.kind || p.ID != want.id {
			t.Errorf("partition %d is %s %s %s, want %+v", i+1, p.Name, p.Type, p.ID, want)
		}
		if p.Offset()%alignment != 0 {
			t.Errorf("partition %d begins at %d", i+1, p.Offset())
		}
	}
	part := func(i int) []byte {
		p := table.Partitions[i]
		return disk.data[p.Offset() : p.Offset()+p.Size()]
	}
	if !bytes.HasPrefix(part(1), c.Root) || !bytes.HasPrefix(part(2), c.Tree) {
		t.Error("root or tree are not at the beginning of their partitions")
	}
	fs, err := esp.Open(bytes.NewReader(part(0)), table.Partitions[0].Size())
	if err != nil {
		t.Fatal(err)
	}
	if uki, err := fs.ReadFile(BootPath); err != nil || !bytes.Equal(uki, c.UKI) {
		t.Errorf("the UKI cannot be read back: %v", err)
	}
}

// TestWriteIsAFunctionOfContent writes the same twice, and then another root, which must change every identifier.
func TestWriteIsAFunctionOfContent(t *testing.T) {
	c := contents(t)
	var first, second, changed memory
	for disk, content := range map[*memory]Contents{&first: c, &second: c} {
		if _, err := Write(disk, content); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.data, second.data) {
		t.Error("two disks of the same content differ")
	}
	c.Hash[5]++
	if _, err := Write(&changed, c); err != nil {
		t.Fatal(err)
	}
	before, after := parse(t, first.data), parse(t, changed.data)
	if before.DiskID == after.DiskID {
		t.Error("another root hash leaves the disk's identifier as it was")
	}
	if before.Partitions[0].ID == after.Partitions[0].ID {
		t.Error("another root hash leaves the ESP's identifier as it was")
	}
}

func parse(t *testing.T, disk []byte) *gpt.Table {
	t.Helper()
	table, err := gpt.Parse(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// counter counts the bytes that are written.
type counter struct{ n int64 }

func (c *counter) WriteAt(p []byte, _ int64) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func TestWriteIsSparse(t *testing.T) {
	c := contents(t)
	c.Root = append(c.Root, make([]byte, 100<<20)...)
	var written counter
	size, err := Write(&written, c)
	if err != nil {
		t.Fatal(err)
	}
	if written.n > 3<<20 {
		t.Errorf("%d of %d bytes are written, although nearly all are zero", written.n, size)
	}
}

var _ io.WriterAt = &counter{}

// full is a disk in memory on a machine that has room for some writes only.
type full struct {
	memory
	left int
}

func (f *full) WriteAt(p []byte, at int64) (int, error) {
	if f.left == 0 {
		return 0, syscall.ENOSPC
	}
	f.left--
	return f.memory.WriteAt(p, at)
}

// TestFullDiskIsAnError: wherever the room ends, a disk that is not whole is not
// taken for one.
func TestFullDiskIsAnError(t *testing.T) {
	c := contents(t)
	for room := 0; ; room++ {
		disk := full{left: room}
		_, err := Write(&disk, c)
		if err == nil {
			if disk.left != 0 {
				t.Fatalf("%d writes fewer than there was room for", disk.left)
			}
			if room < 10 {
				t.Errorf("a disk in %d writes: this test looks at too little", room)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d writes: %v", room, err)
		}
	}
}
