// SPDX-License-Identifier: Apache-2.0

package tpm

import "encoding/binary"

// reader is a bounds-checked cursor over a TPM structure. Once it has failed, all
// that it returns is zero, and ok says so: check it before a value counts.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B: 16 bits of length, and that many bytes.
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// done says whether everything was there, and nothing more.
func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }
