// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"strings"
)

// Directory entries and their attributes (Microsoft FAT Specification, sections 6 and 7).
const (
	entrySize       = 32 // bytes
	entryDeleted    = 0xe5
	attributeVolume = 0x08
	attributeDir    = 0x10
	attributeLong   = 0x0f
	attributesMask  = 0x3f

	longLast     = 0x40 // flags the part of a long name that is stored first
	longParts    = 20
	longUnits    = 13 // characters in a part
	noLongName   = "part of a long name at byte %d that belongs to no entry"
	badNameBytes = "\"*/:<>?\\|"
)

// entry is a file or a directory as its directory lists it.
type entry struct {
	name  string // the long name if there is one, else the short
	short string
	dir   bool
	size  int64
	first uint32
}

// entries reads a directory. Firmware ignores a long name that is not whole, and
// takes the first of two equal names; other readers may not, so that both are refused.
func entries(dir []byte, root bool) ([]entry, error) {
	var out []entry
	var long longName
	names := map[string]bool{}
	at := 0
	for ; at+entrySize <= len(dir) && dir[at] != 0; at += entrySize {
		e := dir[at : at+entrySize]
		switch {
		case e[0] != entryDeleted && e[11] == attributeLong:
			if err := long.add(e, at); err != nil {
				return nil, err
			}
			continue
		case e[0] == entryDeleted, e[11]&attributeVolume != 0:
			if long.open {
				return nil, fail(ReasonName, noLongName, at)
			}
			continue
		}
		name, err := long.of(e, at)
		if err != nil {
			return nil, err
		}
		d := entryOf(e)
		if d.dir && name == "" && !root && (d.short == "." || d.short == "..") {
			continue
		}
		if !validShort(e[:11]) || e[11]&^attributesMask != 0 {
			return nil, fail(ReasonName, "the entry at byte %d has the short name %q", at, d.short)
		}
		if d.name = d.short; name != "" {
			d.name = name
		}
		if err := claim(names, d); err != nil {
			return nil, err
		}
		if out = append(out, d); len(out) > maxFiles {
			return nil, fail(ReasonTooLarge, "more than %d files in a directory", maxFiles)
		}
	}
	if long.open {
		return nil, fail(ReasonName, noLongName, at)
	}
	return out, nil
}

// claim wants an entry's two names not to be another's.
func claim(names map[string]bool, d entry) error {
	long, short := strings.ToUpper(d.name), strings.ToUpper(d.short)
	if names[long] || names[short] {
		return fail(ReasonDuplicate, "%q, also called %q, is not the only one of its names", d.name, d.short)
	}
	names[long], names[short] = true, true
	return nil
}

func entryOf(e []byte) entry {
	le := binary.LittleEndian
	short := strings.TrimRight(string(e[:8]), " ")
	if ext := strings.TrimRight(string(e[8:11]), " "); ext != "" {
		short += "." + ext
	}
	return entry{
		short: short,
		dir:   e[11]&attributeDir != 0,
		size:  int64(le.Uint32(e[28:])),
		first: uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:])),
	}
}

// validShort wants a name and an extension, each in the characters that the format
// allows, of ASCII, and filled with blanks at its end only.
func validShort(b []byte) bool {
	for _, part := range []string{string(b[:8]), string(b[8:11])} {
		part = strings.TrimRight(part, " ")
		for _, c := range []byte(part) {
			if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("$%'-_@~`!(){}^#&", rune(c)) {
				return false
			}
		}
	}
	return b[0] != ' '
}

// longName puts the parts of a long name together. They stand before the entry that
// they belong to, the last part first.
type longName struct {
	open bool
	left byte // parts that are still to come
	sum  byte // of the short name that they belong to
	name string
}

// add takes the next part.
func (l *longName) add(e []byte, at int) error {
	ordinal := e[0]
	if first := ordinal&longLast != 0; first != !l.open {
		return fail(ReasonName, noLongName, at)
	} else if first {
		*l = longName{open: true, left: ordinal &^ longLast, sum: e[13]}
		ordinal = l.left
	}
	if ordinal == 0 || ordinal > longParts || ordinal != l.left || e[13] != l.sum || e[12] != 0 || e[26] != 0 || e[27] != 0 {
		return fail(ReasonName, noLongName, at)
	}
	part, whole, ok := longText(e)
	if !ok || part == "" || (!whole && l.name != "") {
		return fail(ReasonName, "the long name at byte %d is not printable ASCII, or has characters that no name may have", at)
	}
	l.name = part + l.name
	l.left--
	return nil
}

// of ends a long name at the entry that it belongs to; "" if that has none.
func (l *longName) of(e []byte, at int) (string, error) {
	if !l.open {
		return "", nil
	}
	name, ended, sum := l.name, l.left == 0, l.sum
	*l = longName{}
	if !ended || sum != checksum(e[:11]) {
		return "", fail(ReasonName, noLongName, at)
	}
	if last := name[len(name)-1]; last == '.' || last == ' ' {
		return "", fail(ReasonName, "the long name %q ends in a dot or a blank", name)
	}
	return name, nil
}

// longText is a part's text, and whether it fills the part: a shorter one ends with a
// zero, behind which all bits are set.
func longText(e []byte) (text string, whole, ok bool) {
	var out []byte
	ended := false
	for i := range longUnits {
		at := 1 + 2*i
		if i >= 11 {
			at = 28 + 2*(i-11)
		} else if i >= 5 {
			at = 14 + 2*(i-5)
		}
		u := binary.LittleEndian.Uint16(e[at:])
		switch {
		case ended && u != 0xffff:
			return "", false, false
		case ended:
		case u == 0:
			ended = true
		case u < 0x20 || u > 0x7e || strings.ContainsRune(badNameBytes, rune(u)):
			return "", false, false
		default:
			out = append(out, byte(u))
		}
	}
	return string(out), !ended, true
}

// checksum ties a long name to its short name (section 7.2).
func checksum(short []byte) (sum byte) {
	for _, c := range short {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}
