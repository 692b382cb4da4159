// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// benchEvents is how many events the log of a real machine has, about.
const benchEvents = 100

// longBoot is a prediction with as many events as a real machine logs, spread over
// the registers that firmware, boot loader and kernel extend.
func longBoot() *measurements.Prediction {
	p := boot("good")
	for i := len(p.Events); i < benchEvents; i++ {
		pcr := []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11}[i%10]
		p.Events = append(p.Events, measurements.Event{
			PCR: pcr, Type: tcg.IPL.String(), Component: measurements.ComponentFirmware,
			Description: fmt.Sprintf("event %d", i), Digests: measurements.Sum(fmt.Appendf(nil, "event %d", i)),
		})
	}
	p.PCRs = p.Replay()
	return p
}

// subject is evidence of a machine with a log of a real one's length, and a judge who
// accepts it.
type subject struct {
	verifier *Verifier
	evidence *attestation.Evidence
	binding  attestation.Binding
	pending  *Pending
	answer   []byte
}

func newSubject(t testing.TB) *subject {
	t.Helper()
	p := longBoot()
	f := newFake(t, "one", nil, p)
	events := artifacttest.EventsOf(p)
	for i := range events {
		events[i].Data = make([]byte, 200) // a load option or a device path, in a real log
	}
	f.observed = artifacttest.Observed(p, events)
	s := &subject{verifier: verifier(t, policyOf(t, p, nil, f.identity())), binding: attestation.Binding{1}}
	var err error
	if s.evidence, err = f.Issue(t.Context(), s.binding); err != nil {
		t.Fatal(err)
	}
	challenge, pending, err := NewChallenge(s.evidence, s.binding)
	if err != nil {
		t.Fatal(err)
	}
	s.pending = pending
	if s.answer, err = f.Respond(t.Context(), s.binding, challenge); err != nil {
		t.Fatal(err)
	}
	return s
}

// verify makes every check, the answer to a challenge included.
func (s *subject) verify(t testing.TB) {
	if _, err := s.verifier.VerifyAnswered(s.evidence, s.binding, s.pending, s.answer); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyAllocatesLittle: a verifier judges strangers.
func TestVerifyAllocatesLittle(t *testing.T) {
	s := newSubject(t)
	if n := testing.AllocsPerRun(100, func() { s.verify(t) }); n >= 100 {
		t.Errorf("%.0f allocations for one verification, want less than 100", n)
	}
}

// BenchmarkVerify: all but the making of the challenge.
func BenchmarkVerify(b *testing.B) {
	s := newSubject(b)
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		s.verify(b)
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-began).Seconds(), "verifications/CPU-s")
}

// cpuTime is what this process has used of all processors: on a machine that is busy
// otherwise it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkVerifyToP256 does both by turns, and reports how many verifications are
// made in the processor time of one bare ECDSA P-256 verification.
func BenchmarkVerifyToP256(b *testing.B) {
	s, bare := newSubject(b), newP256(b)
	const turn = 10 // of each; the clock of processor time is not fine enough for one
	var whole, part time.Duration
	for b.Loop() {
		began := cpuTime(b)
		for range turn {
			s.verify(b)
		}
		between := cpuTime(b)
		for range turn {
			bare.verify(b)
		}
		whole, part = whole+between-began, part+cpuTime(b)-between
	}
	b.ReportMetric(part.Seconds()/whole.Seconds(), "ratio")
	b.ReportMetric(float64(part.Nanoseconds())/float64(b.N*turn), "CPU-ns/P-256")
}

// BenchmarkChallenge: making a challenge encrypts to the endorsement key.
func BenchmarkChallenge(b *testing.B) {
	s := newSubject(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := NewChallenge(s.evidence, s.binding); err != nil {
			b.Fatal(err)
		}
	}
}

// p256 is a signature and nothing around it.
type p256 struct {
	key       *ecdsa.PrivateKey
	digest    [sha256.Size]byte
	signature []byte
}

func newP256(t testing.TB) *p256 {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &p256{key: key}
	if p.signature, err = ecdsa.SignASN1(rand.Reader, key, p.digest[:]); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *p256) verify(t testing.TB) {
	if !ecdsa.VerifyASN1(&p.key.PublicKey, p.digest[:], p.signature) {
		t.Fatal("not verified")
	}
}
