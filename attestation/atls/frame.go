// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"encoding/binary"
	"io"
	"slices"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// frameType is the first byte of a frame (docs/atls.md, section 3).
type frameType uint8

const (
	frameHello     frameType = 1
	frameEvidence  frameType = 2
	frameChallenge frameType = 3
	frameResponse  frameType = 4
	frameResult    frameType = 5
)

// Sizes in bytes.
const (
	headerSize   = 4
	maxHelloSize = 4 << 10
	resultSize   = 6
	readStep     = 16 << 10 // most that is allocated ahead of what was received
)

// limit is the longest body of a type, 0 for an unknown one.
func (t frameType) limit() int {
	switch t {
	case frameHello:
		return maxHelloSize
	case frameEvidence:
		return attestation.MaxEvidenceSize
	case frameChallenge, frameResponse:
		return attestation.MaxChallengeSize
	case frameResult:
		return resultSize
	}
	return 0
}

// appendFrame appends a frame: type, length as 24 bits big endian, body.
func appendFrame(b []byte, t frameType, body []byte) ([]byte, error) {
	if len(body) > t.limit() {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "frame %d of %d bytes, at most %d", t, len(body), t.limit())
	}
	b = binary.BigEndian.AppendUint32(b, uint32(t)<<24|uint32(len(body)))
	return append(b, body...), nil
}

// writeFrame sends one frame in one write.
func writeFrame(w io.Writer, t frameType, body []byte) error {
	frame, err := appendFrame(make([]byte, 0, headerSize+len(body)), t, body)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

// readFrame reads one frame that must be of a type in want, and not a byte more.
// A result that is a refusal may come at any time, and is returned as an *Error.
func readFrame(r io.Reader, want ...frameType) (frameType, []byte, error) {
	a, err := readHeader(r, want...)
	if err != nil {
		return 0, nil, err
	}
	body, err := a.read(r)
	return a.frameType, body, err
}

// announced is a frame whose header was read.
type announced struct {
	frameType
	size int
	want []frameType
}

// readHeader reads as much of a frame as costs nothing to keep.
func readHeader(r io.Reader, want ...frameType) (*announced, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	word := binary.BigEndian.Uint32(header[:])
	t, size := frameType(word>>24), int(word&0xffffff)
	switch {
	case t.limit() == 0:
		return nil, attestation.Refuse(attestation.ReasonMalformed, "frame of unknown type %d", t)
	case size > t.limit():
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "frame %d of %d bytes, at most %d", t, size, t.limit())
	}
	expected := slices.Contains(want, t)
	if !expected && t != frameResult {
		return nil, attestation.Refuse(attestation.ReasonUnexpected, "frame %d where one of %d is expected", t, want)
	}
	return &announced{t, size, want}, nil
}

// read reads the body, and judges it if it is a result.
func (a *announced) read(r io.Reader) ([]byte, error) {
	body, err := readBody(r, a.size)
	if err != nil || a.frameType != frameResult {
		return body, err
	}
	if err := parseResult(body); err != nil {
		return nil, err
	}
	if !slices.Contains(a.want, frameResult) {
		return nil, attestation.Refuse(attestation.ReasonUnexpected, "acceptance where one of %d is expected", a.want)
	}
	return body, nil
}

// readBody lets memory grow with what arrives, not with what was announced.
func readBody(r io.Reader, size int) ([]byte, error) {
	body := make([]byte, 0, min(size, readStep))
	for len(body) < size {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(size, 2*cap(body))), body...)
		}
		n, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err != nil {
			return nil, err
		}
	}
	return body, nil
}

// result encodes a verdict: 0 for acceptance, else the reason, and in
// milliseconds when to try again.
func result(reason attestation.Reason, retry time.Duration) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(reason))
	return binary.BigEndian.AppendUint32(b, uint32(min(max(retry.Milliseconds(), 0), maxRetry.Milliseconds())))
}

// maxRetry is the most that a peer's word makes anybody wait.
const maxRetry = time.Hour

// parseResult is nil for acceptance and an *Error for a refusal.
func parseResult(body []byte) error {
	if len(body) != resultSize {
		return attestation.Refuse(attestation.ReasonMalformed, "result of %d bytes, want %d", len(body), resultSize)
	}
	reason := attestation.Reason(binary.BigEndian.Uint16(body))
	retry := time.Duration(binary.BigEndian.Uint32(body[2:])) * time.Millisecond
	if retry > maxRetry || reason == 0 && retry != 0 {
		return attestation.Refuse(attestation.ReasonMalformed, "result asks for a retry after %v", retry)
	}
	if reason == 0 {
		return nil
	}
	return &Error{Reason: reason, ByPeer: true, RetryAfter: retry}
}
