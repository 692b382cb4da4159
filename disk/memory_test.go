// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/constellation-os/constellation/disk/luks2"
)

const pageSize = 4096

// memory is a sparse disk in memory whose power can be cut, and whose owner can lie.
type memory struct {
	size  int64
	pages map[int64]*[pageSize]byte
	// writes counts the writes so far.
	writes int
	// cut is the number of writes after which the power goes; the one that it hits is torn. Negative: never.
	cut  int
	tear func(sectors int) []bool // which sectors of the torn write arrive
	// answer, if there is one, changes what a read returns.
	answer func(data []byte, at int64)
	reads  int
}

var errPowerCut = errors.New("the power was cut")

func newMemory(size int64) *memory {
	return &memory{size: size, pages: map[int64]*[pageSize]byte{}, cut: -1}
}

// snapshot is a copy of what the disk holds, as a host can make it.
func (m *memory) snapshot() *memory {
	return &memory{size: m.size, pages: maps.Clone(m.pages), cut: -1}
}

func (m *memory) Size() (int64, error) { return m.size, nil }

func (m *memory) ReadAt(p []byte, at int64) (int, error) {
	m.reads++
	for done := 0; done < len(p); {
		where := at + int64(done)
		page := m.pages[where/pageSize]
		if page == nil {
			page = &zeroPage
		}
		done += copy(p[done:], page[where%pageSize:])
	}
	if m.answer != nil {
		m.answer(p, at)
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if m.cut >= 0 && m.writes > m.cut {
		return 0, errPowerCut
	}
	m.writes++
	if m.cut < 0 || m.writes <= m.cut {
		m.putAll(p, at)
		return len(p), nil
	}
	const sector = 512
	for i, arrives := range m.tear((len(p) + sector - 1) / sector) {
		if arrives {
			m.putAll(p[i*sector:min(len(p), (i+1)*sector)], at+int64(i*sector))
		}
	}
	return 0, errPowerCut
}

// putAll changes pages.
func (m *memory) putAll(p []byte, at int64) {
	for len(p) > 0 {
		size := min(len(p), int(pageSize-at%pageSize))
		m.put(p[:size], at)
		p, at = p[size:], at+int64(size)
	}
}

// put changes a page. Pages are never changed in place: snapshots share them.
func (m *memory) put(p []byte, at int64) {
	page := new([pageSize]byte)
	if old := m.pages[at/pageSize]; old != nil && len(p) < pageSize {
		*page = *old
	}
	if copy(page[at%pageSize:], p); *page == zeroPage {
		delete(m.pages, at/pageSize)
		return
	}
	m.pages[at/pageSize] = page
}

var zeroPage [pageSize]byte

func (m *memory) Sync() error {
	if m.cut >= 0 && m.writes > m.cut {
		return errPowerCut
	}
	return nil
}

// tears are ways in which a write can arrive in part. A sector of 512 bytes arrives or does not.
var tears = map[string]func(sectors int) []bool{
	"nothing arrives":    func(n int) []bool { return make([]bool, n) },
	"everything arrives": func(n int) []bool { return filled(n, func(int) bool { return true }) },
	"the beginning":      func(n int) []bool { return filled(n, func(i int) bool { return i < (n+1)/2 }) },
	"the end":            func(n int) []bool { return filled(n, func(i int) bool { return i >= n/2 }) },
	"the first sector":   func(n int) []bool { return filled(n, func(i int) bool { return i == 0 }) },
	"some": func(n int) []bool {
		random := rand.New(rand.NewPCG(uint64(n), 1))
		return filled(n, func(int) bool { return random.IntN(2) == 0 })
	},
}

func filled(n int, value func(int) bool) []bool {
	all := make([]bool, n)
	for i := range all {
		all[i] = value(i)
	}
	return all
}

// cutEverywhere runs an operation on a copy of a disk once for each write that it makes and each tear, with the power
// cut at that write, and gives the disk that is left to check.
func cutEverywhere(t *testing.T, start *memory, operate func(d *memory) error, check func(t *testing.T, d *memory)) {
	t.Helper()
	whole := start.snapshot()
	if err := operate(whole); err != nil {
		t.Fatal(err)
	}
	if whole.writes == 0 {
		t.Fatal("nothing was written")
	}
	for n := range whole.writes {
		for name, tear := range tears {
			d := start.snapshot()
			d.cut, d.tear = n, tear
			if err := operate(d); !errors.Is(err, errPowerCut) {
				t.Fatalf("cut at write %d (%s): %v", n, name, err)
			}
			left := d.snapshot()
			check(t, left)
			if t.Failed() {
				t.Fatalf("cut at write %d of %d, of which arrived: %s", n, whole.writes, name)
			}
		}
	}
	t.Logf("%d writes, %d ways to tear each", whole.writes, len(tears))
}

// cluster is a witness that remembers as the cluster will.
type cluster struct {
	mu    sync.Mutex
	known map[string]Generation
	// lost loses the next answer, after the step was recorded.
	lost bool
}

var errLost = errors.New("the answer was lost")

func newCluster() *cluster { return &cluster{known: map[string]Generation{}} }

func (c *cluster) Advance(_ context.Context, uuid string, from, to Generation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, err := Judge(uuid, c.known[uuid], from, to)
	if err != nil {
		return err
	}
	c.known[uuid] = next
	if c.lost {
		c.lost = false
		return errLost
	}
	return nil
}

// plain is a formatted disk without a file system.
type plain struct {
	*memory
	key  []byte
	uuid string
}

func newPlain(t testing.TB) *plain {
	t.Helper()
	p := &plain{memory: newMemory(1 << 30), key: random(KeySize), uuid: NewUUID()}
	if err := format(t.Context(), p.memory, FormatOptions{UUID: p.uuid, Key: p.key}, fillNothing); err != nil {
		t.Fatal(err)
	}
	return p
}

func fillNothing(context.Context, []byte) error { return nil }

func random(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

// open opens a disk as [Open] does, and does not map it.
func open(t testing.TB, d Device, key []byte, w Witness) error {
	t.Helper()
	uuid, volumeKey, err := unlock(t.Context(), d, key, w)
	if err == nil && (!luks2.ValidUUID(uuid) || len(volumeKey) != luks2.VolumeKeySize) {
		t.Errorf("opened as %q with a volume key of %d bytes", uuid, len(volumeKey))
	}
	return err
}
