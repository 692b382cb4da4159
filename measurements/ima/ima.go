// SPDX-License-Identifier: Apache-2.0

// Package ima reads the list that the kernel's integrity subsystem keeps of what
// it measured into PCR 10: binary_runtime_measurements (Linux,
// security/integrity/ima/ima_fs.c, ima_measurements_show).
//
// Like a firmware's log the list is a claim until it replays to a PCR value that
// a TPM vouches for, and what an entry says about itself only explains.
package ima

import (
	"encoding/binary"
	"fmt"

	"github.com/constellation-os/constellation/measurements/printable"
)

// Limits of Parse.
const (
	MaxSize    = 1 << 20 // bytes of a list
	MaxEntries = 8192
	maxName    = 255      // bytes of a template's name
	maxData    = 64 << 10 // bytes of one entry's template data
	maxShown   = 160      // bytes of text that is shown
)

// PCR is the register that the kernel is built to use
// (CONFIG_IMA_MEASURE_PCR_IDX).
const PCR = 10

// Entry is one measurement. Data aliases the parsed list.
type Entry struct {
	PCR int
	// Template names the fields of Data.
	Template string
	// Data is what each bank hashes to extend the PCR. It is nil for a violation
	// (a file that was open for writing while it was measured), for which the
	// kernel extends with all bits set.
	Data []byte
}

// Name is what the entry says it measured: the second field of the kernel's
// templates, printable ASCII of at most 160 bytes.
func (e *Entry) Name() string {
	data := e.Data
	for field := 0; field < 2; field++ {
		if len(data) < 4 {
			return ""
		}
		n := binary.LittleEndian.Uint32(data)
		if uint64(n) > uint64(len(data)-4) {
			return ""
		}
		if field == 1 {
			return printable.Text(data[4:4+n], maxShown)
		}
		data = data[4+n:]
	}
	return ""
}

// Reason classifies why a list was refused.
type Reason string

// Reasons of Parse.
const (
	ReasonTooLarge  Reason = "too-large" // a limit of this package was exceeded
	ReasonTruncated Reason = "truncated" // an entry runs past the end
	ReasonTemplate  Reason = "template"  // the old template "ima", which is not length-prefixed
)

// Error is returned by Parse.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "IMA list: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// Parse reads a list.
func Parse(raw []byte) ([]Entry, error) {
	if len(raw) > MaxSize {
		return nil, fail(ReasonTooLarge, "%d bytes, at most %d", len(raw), MaxSize)
	}
	var out []Entry
	for at := 0; at < len(raw); {
		if len(out) == MaxEntries {
			return nil, fail(ReasonTooLarge, "more than %d entries", MaxEntries)
		}
		e, n, err := parseEntry(raw[at:])
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		at += n
	}
	return out, nil
}

// parseEntry reads PCR, SHA-1 of the data, name and data, the latter two behind
// their lengths.
func parseEntry(b []byte) (Entry, int, error) {
	const digest = 20
	le := binary.LittleEndian
	if len(b) < 4+digest+4 {
		return Entry{}, 0, fail(ReasonTruncated, "%d bytes left for an entry", len(b))
	}
	e := Entry{PCR: int(int32(le.Uint32(b)))}
	violation := true
	for _, c := range b[4 : 4+digest] {
		violation = violation && c == 0
	}
	at := 4 + digest + 4
	name := le.Uint32(b[4+digest:])
	if name > maxName {
		return Entry{}, 0, fail(ReasonTooLarge, "template name of %d bytes", name)
	}
	if uint64(at)+uint64(name)+4 > uint64(len(b)) {
		return Entry{}, 0, fail(ReasonTruncated, "template name of %d bytes", name)
	}
	e.Template = printable.Text(b[at:at+int(name)], maxShown)
	if e.Template == "ima" {
		return Entry{}, 0, fail(ReasonTemplate, "template %q", e.Template)
	}
	at += int(name)
	size := le.Uint32(b[at:])
	at += 4
	if size > maxData {
		return Entry{}, 0, fail(ReasonTooLarge, "template data of %d bytes", size)
	}
	if int(size) > len(b)-at {
		return Entry{}, 0, fail(ReasonTruncated, "template data of %d bytes, %d left", size, len(b)-at)
	}
	if !violation {
		e.Data = b[at : at+int(size) : at+int(size)]
	}
	return e, at + int(size), nil
}
