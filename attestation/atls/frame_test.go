// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
)

func header(t frameType, size int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(t)<<24|uint32(size))
}

// TestReadFrameRefuses (V12).
func TestReadFrameRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		data []byte
		want attestation.Reason
	}{
		{"type 0", header(0, 0), attestation.ReasonMalformed},
		{"type 6", header(6, 0), attestation.ReasonMalformed},
		{"type 255", header(255, 0xffffff), attestation.ReasonMalformed},
		{"hello above its limit", header(frameHello, maxHelloSize+1), attestation.ReasonTooLarge},
		{"evidence above its limit", header(frameEvidence, attestation.MaxEvidenceSize+1), attestation.ReasonTooLarge},
		{"challenge above its limit", header(frameChallenge, attestation.MaxChallengeSize+1), attestation.ReasonTooLarge},
		{"response above its limit", header(frameResponse, 0xffffff), attestation.ReasonTooLarge},
		{"result above its limit", header(frameResult, 7), attestation.ReasonTooLarge},
		{"evidence where a hello belongs", header(frameEvidence, 0), attestation.ReasonUnexpected},
		{"short result", append(header(frameResult, 2), 0, 1), attestation.ReasonMalformed},
		{"acceptance where a hello belongs", append(header(frameResult, 6), 0, 0, 0, 0, 0, 0), attestation.ReasonUnexpected},
		{"acceptance with a retry", append(header(frameResult, 6), 0, 0, 0, 0, 0, 1), attestation.ReasonMalformed},
		{"retry after weeks", append(header(frameResult, 6), 0, 8, 0xff, 0xff, 0xff, 0xff), attestation.ReasonMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := readFrame(bytes.NewReader(tc.data), frameHello)
			var refusal *attestation.Error
			if !errors.As(err, &refusal) || refusal.Reason != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReadFrameReturnsThePeersRefusal(t *testing.T) {
	body := result(attestation.ReasonBusy, 1500*time.Millisecond)
	_, _, err := readFrame(bytes.NewReader(append(header(frameResult, 6), body...)), frameEvidence)
	var e *Error
	if !errors.As(err, &e) || !e.ByPeer || e.Reason != attestation.ReasonBusy || e.RetryAfter != 1500*time.Millisecond || !e.Temporary() {
		t.Errorf("got %#v", err)
	}
}

func TestReadFrameTakesNotAByteMore(t *testing.T) {
	for _, size := range []int{0, 1, readStep - 1, readStep, readStep + 1, 5 * readStep, attestation.MaxEvidenceSize} {
		body := bytes.Repeat([]byte{7}, size)
		stream := bytes.NewReader(slices.Concat(header(frameEvidence, size), body, []byte("PRI * HTTP/2.0")))
		_, got, err := readFrame(iotest.HalfReader(stream), frameEvidence)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		if rest, _ := io.ReadAll(stream); string(rest) != "PRI * HTTP/2.0" {
			t.Errorf("%d bytes: %q is left", size, rest)
		}
	}
}

// TestAnnouncedSizeIsNotAllocated: a thousand headers that promise the most cost
// what they sent, not what they promised. (V12)
func TestAnnouncedSizeIsNotAllocated(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		readFrame(bytes.NewReader(header(frameEvidence, attestation.MaxEvidenceSize)), frameEvidence)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1000*2*readStep {
		t.Errorf("%d bytes were allocated", used)
	}
}

func TestHelloRoundTrip(t *testing.T) {
	for _, want := range []*hello{
		{version: 1, role: client, nonce: nonce{1}},
		{version: 1, role: server, nonce: nonce{2}, offers: []attestation.Technology{"tpm"}},
		{version: 1, role: client, nonce: nonce{3}, offers: []attestation.Technology{"sevsnp+tpm", "tpm"}, demands: []attestation.Technology{"tdx"}},
	} {
		got, err := parseHello(want.marshal())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(hello{})); diff != "" {
			t.Error(diff)
		}
	}
}

func TestParseHelloRefuses(t *testing.T) {
	good := (&hello{version: 1, role: client, offers: []attestation.Technology{"tpm"}}).marshal()
	lists := len(good) - len("\x01\x03tpm\x00")
	with := func(tail ...byte) []byte { return append(slices.Clone(good[:lists]), tail...) }
	for _, tc := range []struct {
		name string
		body []byte
		want attestation.Reason
	}{
		{"nothing", nil, attestation.ReasonMalformed},
		{"version 0", append([]byte{0, 0}, good[2:]...), attestation.ReasonVersion},
		{"version 2, of another shape", []byte{0, 2}, attestation.ReasonVersion},
		{"version only", good[:2], attestation.ReasonMalformed},
		{"no lists", good[:lists], attestation.ReasonMalformed},
		{"one list", with(0), attestation.ReasonMalformed},
		{"nine technologies", with(9, 0, 0), attestation.ReasonTooLarge},
		{"a name longer than the hello", with(1, 200, 'a'), attestation.ReasonMalformed},
		{"an empty name", with(1, 0, 0), attestation.ReasonMalformed},
		{"an upper-case name", with(1, 1, 'A', 0), attestation.ReasonMalformed},
		{"a name twice", with(2, 1, 'a', 1, 'a', 0), attestation.ReasonMalformed},
		{"a byte more", append(slices.Clone(good), 0), attestation.ReasonMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := parseHello(tc.body); attestation.ReasonOf(err) != tc.want || err == nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(header(frameEvidence, 3))
	f.Add(append(header(frameResult, 6), 0, 8, 0, 0, 0, 1))
	f.Add(append(header(frameHello, 2), 0, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, body, err := readFrame(bytes.NewReader(data), frameHello, frameEvidence, frameChallenge, frameResponse, frameResult)
		if err != nil {
			return
		}
		again, err := appendFrame(nil, kind, body)
		if err != nil || !bytes.HasPrefix(data, again) {
			t.Fatalf("read frame %d of %d bytes that is not what was sent: %v", kind, len(body), err)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	f.Add((&hello{version: 1, role: client, offers: []attestation.Technology{"tpm"}, demands: []attestation.Technology{"sevsnp+tpm"}}).marshal())
	f.Add([]byte{0, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHello(data)
		if err != nil {
			if attestation.ReasonOf(err) == attestation.ReasonInternal {
				t.Fatalf("a refusal without a reason: %v", err)
			}
			return
		}
		if !bytes.Equal(h.marshal(), data) {
			t.Fatalf("%x has another encoding, %x", data, h.marshal())
		}
	})
}
