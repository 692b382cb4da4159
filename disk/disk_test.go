// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/disk/luks2"
)

func TestV14OlderCopiesAreRefused(t *testing.T) {
	p, c := newPlain(t), newCluster()
	var copies []*memory
	for range 3 {
		copies = append(copies, p.snapshot())
		if err := open(t, p, p.key, c); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, p.snapshot())
	}
	newest := len(copies) - 1
	for i, old := range copies[:newest] {
		err := open(t, old, p.key, c)
		var rollback *RollbackError
		if !errors.As(err, &rollback) {
			t.Errorf("copy %d of %d: %v", i, newest, err)
			continue
		}
		if rollback.UUID != p.uuid || rollback.Known.Number != 3 || rollback.Disk.Number != uint64((i+1)/2) {
			t.Errorf("copy %d: %+v", i, rollback)
		}
		for _, way := range []string{"tell the cluster to accept its generation", "join as a new node"} {
			if !strings.Contains(err.Error(), way) {
				t.Errorf("the message does not name the way out %q: %v", way, err)
			}
		}
		// A refusal is not an opening: the second try is refused too.
		if err := open(t, old, p.key, c); !errors.As(err, &rollback) {
			t.Errorf("copy %d, again: %v", i, err)
		}
	}
	if err := open(t, copies[newest], p.key, c); err != nil {
		t.Errorf("the newest copy: %v", err)
	}
	if err := open(t, copies[0], p.key, Unwitnessed()); err != nil {
		t.Errorf("the oldest copy without a witness: %v", err)
	}
}

func TestRollbackErrorSaysWhoIsBehind(t *testing.T) {
	third := luks2.Generation{Number: 3, ID: "03"}
	for _, test := range []struct {
		known Generation
		want  string
	}{
		{Generation{Number: 4, ID: "04"}, "the state disk u is an older copy: it is of generation 3, the cluster knows generation 4. If"},
		{Generation{Number: 2, ID: "02"}, "the state disk u is newer than what the cluster knows: it is of generation 3, the cluster knows generation 2. If"},
		{Generation{Number: 3, ID: "30"}, "the state disk u is another copy: it is of generation 3, but not of the one of that number that the cluster knows. If"},
		{luks2.None, "the state disk u is of generation 3, and the cluster knows nothing of it. If"},
	} {
		if got := (&RollbackError{UUID: "u", Disk: third, Known: test.known}).Error(); !strings.HasPrefix(got, test.want) {
			t.Errorf("known %d: %s", test.known.Number, got)
		}
	}
}

// A disk that was taken away has no bytes, and is not one that waits to be formatted.
func TestDiskWithoutBytesIsTooSmall(t *testing.T) {
	if err := open(t, empty{newMemory(0)}, random(KeySize), Unwitnessed()); !errors.Is(err, ErrTooSmall) {
		t.Errorf("got %v", err)
	}
}

type empty struct{ *memory }

func (empty) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

// An older header over the newest one, the rest of the disk being new.
func TestV14OlderHeaderIsRefused(t *testing.T) {
	for _, broken := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		p, c := newPlain(t), newCluster()
		if err := open(t, p, p.key, c); err != nil {
			t.Fatal(err)
		}
		old := p.snapshot()
		if err := open(t, p, p.key, c); err != nil {
			t.Fatal(err)
		}
		// One copy of the new header is destroyed, the other replaced by the old one.
		p.put(make([]byte, 512), broken.Offset())
		stale := make([]byte, luks2.HeaderSize)
		old.ReadAt(stale, (1 - broken).Offset())
		for i := 0; i < len(stale); i += pageSize {
			p.put(stale[i:i+pageSize], (1-broken).Offset()+int64(i))
		}
		var rollback *RollbackError
		if err := open(t, p, p.key, c); !errors.As(err, &rollback) || rollback.Disk.Number != 1 || rollback.Known.Number != 2 {
			t.Errorf("copy %d broken: %v", broken, err)
		}
	}
}

func TestAnswerOfTheWitnessIsLost(t *testing.T) {
	p, c := newPlain(t), newCluster()
	for range 3 {
		c.lost = true
		if err := open(t, p, p.key, c); !errors.Is(err, errLost) {
			t.Fatalf("got %v", err)
		}
		if err := open(t, p, p.key, c); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.known[p.uuid].Number; got != 3 {
		t.Errorf("the cluster knows generation %d, want 3", got)
	}
}

func TestOneBrokenCopyIsRepaired(t *testing.T) {
	for _, broken := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		p := newPlain(t)
		p.put(bytes.Repeat([]byte{0xff}, 512), broken.Offset())
		if in, err := Inspect(p); err != nil || in.Kind != Ours || in.UUID != p.uuid {
			t.Errorf("the disk is %+v, %v", in, err)
		}
		if err := open(t, p, p.key, newCluster()); err != nil {
			t.Errorf("copy %d broken: %v", broken, err)
		}
		p.put(bytes.Repeat([]byte{0xff}, 512), (1 - broken).Offset())
		if err := open(t, p, p.key, Unwitnessed()); err != nil {
			t.Errorf("copy %d broken after the other was repaired: %v", 1-broken, err)
		}
	}
}

// TestV1TwoCopiesThatDiffer puts an attacker's header beside ours, in either place: ours is used.
func TestV1TwoCopiesThatDiffer(t *testing.T) {
	for _, attacked := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		p, other := newPlain(t), newPlain(t)
		foreign := make([]byte, luks2.HeaderSize)
		other.ReadAt(foreign, attacked.Offset())
		for i := 0; i < len(foreign); i += pageSize {
			p.put(foreign[i:i+pageSize], attacked.Offset()+int64(i))
		}
		uuid, _, err := unlock(t.Context(), p, p.key, newCluster())
		if err != nil || uuid != p.uuid {
			t.Errorf("copy %d attacked: opened %s, %v, want %s", attacked, uuid, err, p.uuid)
		}
		if err := open(t, p, other.key, newCluster()); luks2.ReasonOf(err) != luks2.ReasonUnauthentic {
			t.Errorf("copy %d attacked, with the attacker's key: %v", attacked, err)
		}
	}
}

// TestV1ForeignVolumeKeyUnderOurName gives the disk an attacker's volume key, under our disk's name: with the attacker's
// token, with ours in its place, and with none.
func TestV1ForeignVolumeKeyUnderOurName(t *testing.T) {
	p, foreign := newPlain(t), newPlain(t)
	read := func(from *plain) *luks2.Header {
		data := make([]byte, luks2.HeaderSize)
		from.ReadAt(data, 0)
		h, err := luks2.Parse(data, luks2.Primary)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	ours, attacker := read(p), read(foreign)
	attacker.UUID = ours.UUID
	withMAC := func(mac [32]byte) func(luks2.Copy) []byte {
		slot := *attacker.Slots[0]
		slot.MAC = mac
		h := *attacker
		h.Slots[0] = &slot
		return h.Encode
	}
	for _, test := range []struct {
		name   string
		header func(luks2.Copy) []byte
	}{
		{"with the attacker's MAC", withMAC(attacker.Slots[0].MAC)},
		{"with our MAC", withMAC(ours.Slots[0].MAC)},
		{"with no MAC", withMAC([32]byte{})},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := foreign.snapshot() // with the attacker's slot
			for _, which := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
				d.putAll(test.header(which), which.Offset())
			}
			if in, err := Inspect(d); err != nil || in.Kind != Ours || in.UUID != p.uuid {
				t.Fatalf("the disk does not look like ours: %+v, %v", in, err)
			}
			if err := open(t, d, p.key, newCluster()); luks2.ReasonOf(err) != luks2.ReasonUnauthentic || d.writes != 0 {
				t.Errorf("got %v after %d writes", err, d.writes)
			}
		})
	}
	t.Run("in our key slot", func(t *testing.T) {
		d := p.snapshot()
		area := make([]byte, luks2.SlotSize)
		foreign.ReadAt(area, luks2.SlotOffset)
		d.putAll(area, luks2.SlotOffset)
		if err := open(t, d, p.key, newCluster()); luks2.ReasonOf(err) != luks2.ReasonSlotContent || d.writes != 0 {
			t.Errorf("got %v after %d writes", err, d.writes)
		}
	})
}

// TestV2HeaderChangedAfterTheCheck gives another answer to every read but the first.
func TestV2HeaderChangedAfterTheCheck(t *testing.T) {
	p, other := newPlain(t), newPlain(t)
	want := luks2VolumeKey(t, p)
	p.answer = func(data []byte, at int64) {
		if p.reads > 1 {
			other.ReadAt(data, at)
		}
	}
	p.reads = 0
	uuid, volumeKey, err := unlock(t.Context(), p, p.key, newCluster())
	if err != nil || uuid != p.uuid || !bytes.Equal(volumeKey, want) {
		t.Errorf("opened %s, %v, want %s and its volume key", uuid, err, p.uuid)
	}
	if p.reads != 1 {
		t.Errorf("the disk was read %d times, want once", p.reads)
	}
}

func luks2VolumeKey(t *testing.T, p *plain) []byte {
	t.Helper()
	_, volumeKey, err := unlock(t.Context(), p.snapshot(), p.key, newCluster())
	if err != nil {
		t.Fatal(err)
	}
	return volumeKey
}

// TestV1NothingIsWrittenBeforeTheHeaderIsAuthentic: neither a wrong key nor a false header changes the disk, so that
// no number of tries locks anybody out.
func TestV1NothingIsWrittenBeforeTheHeaderIsAuthentic(t *testing.T) {
	for name, test := range map[string]struct {
		change func(p *plain)
		reason luks2.Reason
	}{
		"wrong key":            {func(p *plain) { p.key = random(KeySize) }, luks2.ReasonUnauthentic},
		"disk of another node": {func(p *plain) { p.memory = newPlain(t).memory }, luks2.ReasonUnauthentic},
		"checksum":             {func(p *plain) { p.put([]byte("x"), 200); p.put([]byte("x"), luks2.HeaderSize+200) }, luks2.ReasonChecksum},
		"key slot's content":   {func(p *plain) { p.put([]byte("xyz"), luks2.SlotOffset+4096) }, luks2.ReasonSlotContent},
		"foreign LUKS disk":    {func(p *plain) { p.put([]byte("somebody"), 24); p.put([]byte("somebody"), luks2.HeaderSize+24) }, luks2.ReasonForeign},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlain(t)
			test.change(p)
			p.writes = 0
			before := maps.Clone(p.pages)
			for range 20 {
				if err := open(t, p, p.key, newCluster()); luks2.ReasonOf(err) != test.reason {
					t.Fatalf("got %v, want reason %s", err, test.reason)
				}
			}
			if err := Rekey(p, p.key, random(KeySize)); luks2.ReasonOf(err) != test.reason {
				t.Errorf("re-key: %v, want reason %s", err, test.reason)
			}
			if p.writes != 0 || !maps.Equal(before, p.pages) {
				t.Errorf("%d writes", p.writes)
			}
		})
	}
}

func TestRekeyRefusesTheSameKey(t *testing.T) {
	p := newPlain(t)
	if err := Rekey(p, p.key, p.key); err == nil || err.Error() != "the new key is the old one" {
		t.Errorf("got %v", err)
	}
}

// TestRekeyWipesTheOldSlot: what the old key opened is not on the disk any more.
func TestRekeyWipesTheOldSlot(t *testing.T) {
	p := newPlain(t)
	before, after := make([]byte, luks2.SlotSize), make([]byte, luks2.SlotSize)
	p.ReadAt(before, luks2.SlotOffset)
	if err := Rekey(p, p.key, random(KeySize)); err != nil {
		t.Fatal(err)
	}
	p.ReadAt(after, luks2.SlotOffset)
	for i := 0; i < luks2.SlotSize; i += 512 {
		if bytes.Equal(before[i:i+512], after[i:i+512]) {
			t.Fatalf("sector %d of the old key slot is still there", i/512)
		}
	}
}

func TestInspect(t *testing.T) {
	at := func(offset int64, text string) func(*memory) {
		return func(d *memory) { d.put([]byte(text), offset) }
	}
	whole := newPlain(t)
	for _, test := range []struct {
		name   string
		disk   *memory
		change func(*memory)
		kind   Kind
		detail string
	}{
		{"blank", newMemory(1 << 30), func(*memory) {}, Fresh, "it is blank"},
		{"unfinished", newMemory(1 << 30), at(0, marker), Fresh, "its formatting never finished"},
		{"ours", whole.snapshot(), func(*memory) {}, Ours, "a state disk"},
		{"first copy gone", whole.snapshot(), at(0, "garbage"), Ours, "a state disk"},
		{"both copies broken", whole.snapshot(), func(d *memory) { d.put([]byte{1}, 5000); d.put([]byte{1}, luks2.HeaderSize+5000) }, Damaged, "checksum"},
		{"another LUKS disk", newMemory(1 << 30), at(0, "LUKS\xba\xbe\x00\x02"), Foreign, "another LUKS disk"},
		{"GPT", newMemory(1 << 30), at(512, "EFI PART"), Foreign, "a GPT partition table"},
		{"GPT's copy only", newMemory(1 << 30), at(1<<30-512, "EFI PART"), Foreign, "data at its end"},
		{"ext4", newMemory(1 << 30), at(1080, "\x53\xef"), Foreign, "ext4"},
		{"XFS", newMemory(1 << 30), at(0, "XFSB"), Foreign, "XFS"},
		{"boot sector", newMemory(1 << 30), at(510, "\x55\xaa"), Foreign, "MBR"},
		{"something", newMemory(1 << 30), at(70000, "x"), Foreign, "unknown kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.change(test.disk)
			in, err := Inspect(test.disk)
			if err != nil || in.Kind != test.kind || !strings.Contains(in.Detail, test.detail) || in.Size != 1<<30 {
				t.Errorf("got %+v, %v, want %s, %q", in, err, test.kind, test.detail)
			}
			if (in.UUID != "") != (test.kind == Ours) {
				t.Errorf("its name is %q", in.UUID)
			}
			if test.disk.writes > 0 {
				t.Error("looking at the disk wrote to it")
			}
			o := FormatOptions{UUID: NewUUID(), Key: random(KeySize)}
			err = format(t.Context(), test.disk, o, fillNothing)
			if refused := errors.Is(err, ErrHoldsSomething); refused == (test.kind == Fresh) {
				t.Errorf("formatting it: %v", err)
			}
			if test.kind != Fresh && test.disk.writes > 0 {
				t.Error("a refused formatting wrote to the disk")
			}
			o.Take = true
			if err := format(t.Context(), test.disk, o, fillNothing); err != nil {
				t.Errorf("taking it: %v", err)
			}
		})
	}
}

func TestFormatRefuses(t *testing.T) {
	good := FormatOptions{UUID: NewUUID(), Key: random(KeySize)}
	for _, test := range []struct {
		name   string
		size   int64
		change func(*FormatOptions)
		want   string
	}{
		{"too small", MinSize - 4096, func(*FormatOptions) {}, ErrTooSmall.Error()},
		{"no name", MinSize, func(o *FormatOptions) { o.UUID = "" }, "not a UUID"},
		{"name in upper case", MinSize, func(o *FormatOptions) { o.UUID = strings.ToUpper(o.UUID) + "A" }, "not a UUID"},
		{"short key", MinSize, func(o *FormatOptions) { o.Key = o.Key[1:] }, "a disk's key has 32 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, o := newMemory(test.size), good
			test.change(&o)
			err := format(t.Context(), d, o, fillNothing)
			if err == nil || !strings.Contains(err.Error(), test.want) || d.writes > 0 {
				t.Errorf("got %v after %d writes, want %q", err, d.writes, test.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	a, b := luks2.None.After(), luks2.None.After()
	c := a.After()
	for _, test := range []struct {
		name            string
		known, from, to Generation
		accepted        bool
	}{
		{"a new disk", luks2.None, luks2.None, a, true},
		{"the next generation", a, a, c, true},
		{"asked again", c, a, c, true},
		{"an older disk", c, luks2.None, b, false},
		{"an older disk of the generation before", c, a, a.After(), false},
		{"a disk of unknown past", luks2.None, a, c, false},
		{"the same number by chance", a, b, b.After(), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, err := Judge("uuid", test.known, test.from, test.to)
			want := test.known
			if test.accepted {
				want = test.to
			}
			if (err == nil) != test.accepted || next != want {
				t.Errorf("got %+v, %v", next, err)
			}
		})
	}
}
