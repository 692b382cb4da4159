// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"testing"

	"github.com/constellation-os/constellation/disk/luks2"
)

// A disk whose formatting was cut short is fresh and can be formatted again without being told to take it, or it is
// formatted and opens.
func TestV20PowerCutAtEveryWriteOfFormat(t *testing.T) {
	o := FormatOptions{UUID: NewUUID(), Key: random(KeySize)}
	fresh, ours := 0, 0
	cutEverywhere(t, newMemory(1<<30),
		func(d *memory) error { return format(t.Context(), d, o, fillNothing) },
		func(t *testing.T, d *memory) {
			in, err := Inspect(d)
			if err != nil {
				t.Fatal(err)
			}
			switch in.Kind {
			case Fresh:
				fresh++
				if err := open(t, d, o.Key, Unwitnessed()); !errors.Is(err, ErrNotOurs) {
					t.Errorf("a fresh disk opens: %v", err)
				}
				if err := format(t.Context(), d, o, fillNothing); err != nil {
					t.Errorf("format again: %v", err)
				}
			case Ours:
				ours++
			default:
				t.Fatalf("the disk is %+v", in)
			}
			if err := open(t, d, o.Key, newCluster()); err != nil {
				t.Errorf("open: %v", err)
			}
		})
	if fresh == 0 || ours == 0 {
		t.Errorf("%d disks were fresh, %d ours", fresh, ours)
	}
}

// The same when what the disk held before is to be lost.
func TestV20PowerCutAtEveryWriteOfFormatOverAnotherStateDisk(t *testing.T) {
	before := newPlain(t)
	o := FormatOptions{UUID: NewUUID(), Key: random(KeySize), Take: true}
	cutEverywhere(t, before.memory,
		func(d *memory) error { return format(t.Context(), d, o, fillNothing) },
		func(t *testing.T, d *memory) {
			in, err := Inspect(d)
			if err != nil {
				t.Fatal(err)
			}
			key := o.Key
			switch {
			case in.Kind == Ours && in.UUID == before.uuid:
				key = before.key
			case in.Kind == Fresh:
				if err := format(t.Context(), d, FormatOptions{UUID: o.UUID, Key: o.Key}, fillNothing); err != nil {
					t.Errorf("format again: %v", err)
				}
			case in.Kind != Ours:
				t.Fatalf("the disk is %+v", in)
			}
			if err := open(t, d, key, Unwitnessed()); err != nil {
				t.Errorf("open: %v", err)
			}
		})
}

// Opening writes the next generation. After a cut at any write, the disk opens with the same witness: also where an
// earlier cut had left but one copy of the header whole.
func TestV20PowerCutAtEveryWriteOfOpen(t *testing.T) {
	for name, broken := range map[string][]luks2.Copy{
		"both copies whole": nil, "first copy broken": {luks2.Primary}, "second copy broken": {luks2.Secondary},
	} {
		t.Run(name, func(t *testing.T) {
			p, c := newPlain(t), newCluster()
			if err := open(t, p, p.key, c); err != nil {
				t.Fatal(err)
			}
			for _, which := range broken {
				p.put([]byte("broken"), which.Offset()+5000)
			}
			known := c.known[p.uuid]
			cutEverywhere(t, p.memory,
				func(d *memory) error {
					c.known[p.uuid] = known
					return open(t, d, p.key, c)
				},
				func(t *testing.T, d *memory) {
					if err := open(t, d, p.key, c); err != nil {
						t.Errorf("open again: %v", err)
					}
					if err := open(t, d, p.key, c); err != nil {
						t.Errorf("open once more: %v", err)
					}
				})
		})
	}
}

// After a cut at any write one of the two keys opens the disk, and calling Rekey again with both finishes.
func TestV20PowerCutAtEveryWriteOfRekey(t *testing.T) {
	p := newPlain(t)
	next := random(KeySize)
	byOld, byNew := 0, 0
	cutEverywhere(t, p.memory,
		func(d *memory) error { return Rekey(d, p.key, next) },
		func(t *testing.T, d *memory) {
			withOld, withNew := open(t, d.snapshot(), p.key, newCluster()), open(t, d.snapshot(), next, newCluster())
			if withOld != nil && withNew != nil {
				t.Errorf("neither key opens: %v; %v", withOld, withNew)
			}
			if withOld == nil {
				byOld++
			}
			if withNew == nil {
				byNew++
			}
			wantRekeyed(t, d.snapshot(), p.key, next)
			// A node that opened the disk in between, with whichever key, can still go on.
			for _, key := range [][]byte{p.key, next} {
				between := d.snapshot()
				if open(t, between, key, newCluster()) == nil {
					wantRekeyed(t, between, p.key, next)
				}
			}
		})
	if byOld == 0 || byNew == 0 {
		t.Errorf("the old key opened %d times, the new one %d times", byOld, byNew)
	}
}

func wantRekeyed(t *testing.T, d *memory, old, next []byte) {
	t.Helper()
	if err := Rekey(d, old, next); err != nil {
		t.Errorf("re-key again: %v", err)
	}
	if err := open(t, d, next, Unwitnessed()); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := open(t, d, old, Unwitnessed()); luks2.ReasonOf(err) != luks2.ReasonUnauthentic {
		t.Errorf("the old key: %v", err)
	}
}
