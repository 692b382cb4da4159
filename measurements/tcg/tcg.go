// SPDX-License-Identifier: Apache-2.0

// Package tcg reads the event log that firmware, boot loader and kernel keep of
// what they measured: the crypto-agile form of the TCG PC Client Platform
// Firmware Profile (PFP) 1.06, section 10.
//
// A log is a claim of the machine that is being judged. Its digests mean
// something only once they replay to PCR values that a TPM vouches for; its
// event types and event data are never vouched for (PFP section 10.4.1: the
// digest need not be of the logged data). Parse therefore checks shape and
// limits and nothing else, and nothing in this package decides about trust.
package tcg

import (
	"encoding/binary"
	"fmt"
)

// Limits of Parse. Real firmware stays well below: OVMF reserves 64 KiB.
const (
	MaxLogSize    = 1 << 20   // bytes in a log
	MaxEvents     = 4096      // events in a log
	MaxEventData  = 256 << 10 // bytes of one event's data
	MaxAlgorithms = 8         // banks declared by a log
)

// Algorithm is a TPM_ALG_ID (TCG Algorithm Registry, section 6.10).
type Algorithm uint16

// Hash algorithms that logs use.
const (
	AlgSHA1   Algorithm = 0x0004
	AlgSHA256 Algorithm = 0x000b
	AlgSHA384 Algorithm = 0x000c
	AlgSHA512 Algorithm = 0x000d
	AlgSM3    Algorithm = 0x0012
)

// Size is the digest's length in bytes, 0 for algorithms unknown to this package.
func (a Algorithm) Size() int {
	switch a {
	case AlgSHA1:
		return 20
	case AlgSHA256, AlgSM3:
		return 32
	case AlgSHA384:
		return 48
	case AlgSHA512:
		return 64
	}
	return 0
}

// Digest is one bank's digest of an event. Value aliases the parsed log.
type Digest struct {
	Algorithm Algorithm
	Value     []byte
}

// Event is one entry of the log, in order of measurement.
type Event struct {
	PCR     int
	Type    EventType
	Digests []Digest
	// Data is what the measurer chose to log. It aliases the parsed log.
	Data []byte
}

// Digest returns the event's digest for a bank, nil if it has none.
func (e *Event) Digest(a Algorithm) []byte {
	for _, d := range e.Digests {
		if d.Algorithm == a {
			return d.Value
		}
	}
	return nil
}

// Extends says whether the event changed a PCR: all do but EV_NO_ACTION (PFP
// section 10.4.5). Who relabels a measured event so makes the replay fail.
func (e *Event) Extends() bool { return e.Type != NoAction }

// Log is a parsed event log.
type Log struct {
	// Algorithms are the banks that every event carries a digest for, in the
	// log's order.
	Algorithms []Algorithm
	// StartupLocality is the locality of TPM2_Startup, which is PCR 0's first
	// value (PFP section 10.4.5.3); 0 if the log does not say.
	StartupLocality byte
	// Events are all entries after the specification identifier.
	Events []Event
}

// Has says whether the log covers a bank.
func (l *Log) Has(a Algorithm) bool {
	for _, b := range l.Algorithms {
		if a == b {
			return true
		}
	}
	return false
}

// Reason classifies why a log was refused.
type Reason string

// Reasons of Parse.
const (
	ReasonEmpty       Reason = "empty"         // no bytes at all
	ReasonTooLarge    Reason = "too-large"     // a limit of this package was exceeded
	ReasonTruncated   Reason = "truncated"     // an entry runs past the end
	ReasonNotAgile    Reason = "not-agile"     // no crypto-agile specification identifier
	ReasonBadHeader   Reason = "bad-header"    // the specification identifier contradicts itself
	ReasonBadDigests  Reason = "bad-digests"   // an event's banks differ from the declared ones
	ReasonBadPCRIndex Reason = "bad-pcr-index" // a PCR that no TPM has
	ReasonBadLocality Reason = "bad-locality"  // startup locality malformed, repeated or late
)

// Error is returned by Parse.
type Error struct {
	Reason Reason
	Offset int // where in the log, in bytes
	Detail string
}

func (e *Error) Error() string {
	return fmt.Sprintf("event log: %s at byte %d: %s", e.Reason, e.Offset, e.Detail)
}

// specIDSignature begins the crypto-agile log (PFP section 10.4.5.1).
const specIDSignature = "Spec ID Event03\x00"

// startupLocalitySignature begins the event of PFP section 10.4.5.3.
const startupLocalitySignature = "StartupLocality\x00"

// MaxPCR is the largest index in a PC Client TPM.
const MaxPCR = 23

// Parse reads a whole log. The result aliases raw. Trailing bytes that are all
// zero or all 0xff are padding of a log area; anything else must be an event.
func Parse(raw []byte) (*Log, error) {
	r := &reader{buf: raw}
	switch {
	case len(raw) == 0:
		return nil, r.fail(ReasonEmpty, "the machine has no event log")
	case len(raw) > MaxLogSize:
		return nil, r.fail(ReasonTooLarge, "%d bytes, at most %d", len(raw), MaxLogSize)
	}
	log := &Log{}
	sizes, err := log.parseSpecID(r)
	if err != nil {
		return nil, err
	}
	count, err := countEvents(*r, sizes)
	if err != nil {
		return nil, err
	}
	digests := make([]Digest, 0, count*len(log.Algorithms))
	log.Events = make([]Event, 0, count)
	for range count {
		var e Event
		if e, digests, err = log.parseEvent(r, sizes, digests); err != nil {
			return nil, err
		}
		if err := log.noteLocality(r, &e); err != nil {
			return nil, err
		}
		log.Events = append(log.Events, e)
	}
	return log, nil
}

// parseSpecID reads the first event, which has the old SHA-1 form, and returns
// the digest sizes in the order of log.Algorithms.
func (l *Log) parseSpecID(r *reader) ([]int, error) {
	pcr, typ := r.u32(), r.u32()
	r.take(20)
	data := r.sized(MaxEventData)
	if r.err != nil {
		return nil, r.err
	}
	if pcr != 0 || EventType(typ) != NoAction || len(data) < 29 || string(data[:16]) != specIDSignature {
		return nil, r.fail(ReasonNotAgile, "no %q event at its start", "Spec ID Event03")
	}
	d := &reader{buf: data, base: r.off - len(data)}
	d.take(16 + 4 + 4) // signature, platform class, version and uintn size
	n := d.u32()
	if n == 0 || n > MaxAlgorithms {
		return nil, d.fail(ReasonBadHeader, "%d algorithms, want 1 to %d", n, MaxAlgorithms)
	}
	sizes := make([]int, 0, n)
	for range n {
		alg, size := Algorithm(d.u16()), int(d.u16())
		if d.err != nil {
			return nil, d.err
		}
		if known := alg.Size(); size == 0 || size > 64 || (known != 0 && known != size) || l.Has(alg) {
			return nil, d.fail(ReasonBadHeader, "algorithm %#04x with %d bytes", uint16(alg), size)
		}
		l.Algorithms = append(l.Algorithms, alg)
		sizes = append(sizes, size)
	}
	vendor := d.take(int(d.u8()))
	if d.err != nil {
		return nil, d.err
	}
	if d.off != len(data) {
		return nil, d.fail(ReasonBadHeader, "%d bytes after %d bytes of vendor data", len(data)-d.off, len(vendor))
	}
	return sizes, nil
}

// countEvents walks the log once, so that Parse allocates exactly.
func countEvents(r reader, sizes []int) (int, error) {
	digestsSize := 0
	for _, s := range sizes {
		digestsSize += 2 + s
	}
	for n := 0; ; n++ {
		if r.atPadding() {
			return n, nil
		}
		if n == MaxEvents {
			return 0, r.fail(ReasonTooLarge, "more than %d events", MaxEvents)
		}
		r.take(8)
		if c := r.u32(); r.err == nil && int64(c) != int64(len(sizes)) {
			return 0, r.fail(ReasonBadDigests, "event %d has %d digests, the log declares %d", n, c, len(sizes))
		}
		r.take(digestsSize)
		r.sized(MaxEventData)
		if r.err != nil {
			return 0, r.err
		}
	}
}

// parseEvent reads one TCG_PCR_EVENT2 (PFP section 10.2.2).
func (l *Log) parseEvent(r *reader, sizes []int, digests []Digest) (Event, []Digest, error) {
	pcr, typ := r.u32(), r.u32()
	if pcr > MaxPCR && !(pcr == ^uint32(0) && EventType(typ) == NoAction) {
		return Event{}, nil, r.fail(ReasonBadPCRIndex, "PCR %d", pcr)
	}
	r.u32() // the count of digests, which countEvents checked
	first := len(digests)
	for range sizes {
		alg := Algorithm(r.u16())
		i := l.index(alg)
		if i < 0 {
			return Event{}, nil, r.fail(ReasonBadDigests, "digest of undeclared algorithm %#04x", uint16(alg))
		}
		for _, d := range digests[first:] {
			if d.Algorithm == alg {
				return Event{}, nil, r.fail(ReasonBadDigests, "two digests of algorithm %#04x", uint16(alg))
			}
		}
		digests = append(digests, Digest{alg, r.take(sizes[i])})
	}
	data := r.sized(MaxEventData)
	if r.err != nil {
		return Event{}, nil, r.err
	}
	e := Event{PCR: int(int32(pcr)), Type: EventType(typ), Digests: digests[first:len(digests):len(digests)], Data: data}
	return e, digests, nil
}

func (l *Log) index(a Algorithm) int {
	for i, b := range l.Algorithms {
		if a == b {
			return i
		}
	}
	return -1
}

// noteLocality keeps the startup locality. It may be stated once, before
// anything was measured into PCR 0; later it would rewrite the replay.
func (l *Log) noteLocality(r *reader, e *Event) error {
	if e.Type != NoAction || len(e.Data) < 16 || string(e.Data[:16]) != startupLocalitySignature {
		return nil
	}
	if e.PCR != 0 || len(e.Data) != 17 || (e.Data[16] != 0 && e.Data[16] != 3 && e.Data[16] != 4) {
		return r.fail(ReasonBadLocality, "want one byte of 0, 3 or 4 in PCR 0")
	}
	for i := range l.Events {
		if p := &l.Events[i]; p.PCR == 0 && (p.Extends() || string(p.Data[:min(16, len(p.Data))]) == startupLocalitySignature) {
			return r.fail(ReasonBadLocality, "stated again, or after PCR 0 was extended")
		}
	}
	l.StartupLocality = e.Data[16]
	return nil
}

// reader is a bounds-checked cursor whose first error sticks.
type reader struct {
	buf  []byte
	off  int
	base int // offset of buf in the log, for messages
	err  error
}

func (r *reader) fail(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Offset: r.base + r.off, Detail: fmt.Sprintf(format, args...)}
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.buf)-r.off {
		r.err = r.fail(ReasonTruncated, "%d bytes wanted, %d left", n, len(r.buf)-r.off)
		return nil
	}
	b := r.buf[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// sized reads a 32-bit length and that many bytes.
func (r *reader) sized(limit uint32) []byte {
	n := r.u32()
	if r.err == nil && n > limit {
		r.err = r.fail(ReasonTooLarge, "event data of %d bytes, at most %d", n, limit)
	}
	return r.take(int(min(n, limit)))
}

// atPadding says whether nothing but padding is left.
func (r *reader) atPadding() bool {
	rest := r.buf[r.off:]
	if len(rest) == 0 {
		return true
	}
	// An event cannot begin with eight equal bytes of either kind: PCR 0 with
	// type 0 is EV_PREBOOT_CERT, long unused, and PCR ^0 with type ^0 is nothing.
	pad := rest[0]
	if pad != 0 && pad != 0xff {
		return false
	}
	for _, b := range rest {
		if b != pad {
			return false
		}
	}
	return true
}
