// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// Kind classifies a finding.
type Kind string

// Kinds of findings, the worst first. With one of the first two, Parse refuses the document.
const (
	KindMissing  Kind = "missing"  // a part without which a policy would protect nothing
	KindInvalid  Kind = "invalid"  // a part that means nothing
	KindWeak     Kind = "weak"     // a part that lets in more than it should
	KindExpired  Kind = "expired"  // a part that lets nobody in any more
	KindExpiring Kind = "expiring" // one that soon will not
)

// Finding is something about a policy that its owner should change.
type Finding struct {
	Kind Kind `json:"kind"`
	// Where is the part: a field, an image, an authority.
	Where string `json:"where"`
	// What is wrong, and what to do.
	What   string `json:"what"`
	Advice string `json:"advice"`
	// Registers are the PCRs concerned.
	Registers []int `json:"registers,omitempty"`
	// Until is when it ends, for the kinds expired and expiring.
	Until time.Time `json:"until,omitzero"`
}

// Minimum strengths of an authority's key, in bits.
const (
	minRSABits   = 2048
	minCurveBits = 256
)

// Review finds all that is missing, invalid, weak, expired at a moment, or expiring
// within soon after it. Its error is for what is no policy of this version at all.
func Review(data []byte, now time.Time, soon time.Duration) ([]Finding, error) {
	raw, err := decode(data)
	if err != nil {
		return nil, err
	}
	d, errs := build(raw)
	r := &reviewer{now: now, soon: now.Add(soon)}
	for _, err := range errs {
		r.refusal(err)
	}
	for i := range d.Authorities {
		r.authority(d.Authorities[i])
	}
	if sets := raw.sets(); sets != nil {
		for i := range sets {
			r.set(&sets[i])
		}
	}
	order := []Kind{KindMissing, KindInvalid, KindWeak, KindExpired, KindExpiring}
	slices.SortStableFunc(r.out, func(a, b Finding) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	return r.out, nil
}

// sets are the accepted sets, also of a document that has others which are invalid.
func (raw *document) sets() []accepted.Set {
	if raw.lacksMeasurements() {
		return nil
	}
	m, _ := accepted.Parse(raw.Measurements)
	if m == nil {
		return nil
	}
	return m.Accepted
}

type reviewer struct {
	now, soon time.Time
	out       []Finding
}

func (r *reviewer) find(f Finding) { r.out = append(r.out, f) }

// refusal is what Parse refuses.
func (r *reviewer) refusal(err error) {
	var e *Error
	if !errors.As(err, &e) {
		return // none of build's
	}
	switch {
	case e.Missing != nil:
		for _, name := range e.Missing {
			r.find(Finding{Kind: KindMissing, Where: name, What: "it is not there, or empty", Advice: missingAdvice[name]})
		}
	case e.Registers != nil:
		r.find(Finding{Kind: KindMissing, Where: "measurements", What: e.Err.Error(), Registers: e.Registers,
			Advice: "name these registers: constellation policy create takes them from an image's measurements.json"})
	default:
		r.find(Finding{Kind: KindInvalid, Where: "document", What: e.Err.Error(), Advice: "correct it: until then the policy does not load"})
	}
}

var missingAdvice = map[string]string{
	"version":      "add \"version\": 1",
	"technologies": "add \"technologies\": [\"tpm\"]",
	"measurements": "name what may be booted: constellation policy create takes it from an image's measurements.json",
	missingEndorsement: "name the authorities that certify your TPMs, or list the TPMs themselves: " +
		"without either, any TPM would do",
}

func (r *reviewer) authority(c *x509.Certificate) {
	where := "authority " + c.Subject.String()
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		r.strength(where, key.N.BitLen(), minRSABits)
	case *ecdsa.PublicKey:
		r.strength(where, key.Curve.Params().BitSize, minCurveBits)
	}
	if r.now.Before(c.NotBefore) {
		r.find(Finding{Kind: KindInvalid, Where: where, What: fmt.Sprintf("it vouches for nobody before %s", day(c.NotBefore)), Advice: "check the clock, and the certificate"})
	}
	r.ends(where, "it vouches for nobody", c.NotAfter, "add its successor, or list its TPMs in the inventory")
}

func (r *reviewer) strength(where string, have, want int) {
	if have < want {
		r.find(Finding{Kind: KindWeak, Where: where, What: fmt.Sprintf("its key has %d bits", have), Advice: fmt.Sprintf("trust authorities with at least %d", want)})
	}
}

// ends finds what is over at a moment, or soon.
func (r *reviewer) ends(where, what string, until time.Time, advice string) {
	switch {
	case r.now.After(until):
		r.find(Finding{Kind: KindExpired, Where: where, What: fmt.Sprintf("%s since %s", what, day(until)), Advice: advice, Until: until})
	case r.soon.After(until):
		r.find(Finding{Kind: KindExpiring, Where: where, What: fmt.Sprintf("%s from %s on, in %d days", what, day(until), int(until.Sub(r.now).Hours()/24)), Advice: advice, Until: until})
	}
}

func (r *reviewer) set(s *accepted.Set) {
	where := fmt.Sprintf("image %q", s.Name)
	var forever, zero, over []int // over: with values that no longer count, beside others that do
	for pcr := range measurements.PCRCount {
		last := lastOf(s.PCRs[pcr])
		for _, v := range s.PCRs[pcr] {
			if v.NotAfter.IsZero() && !slices.Contains(forever, pcr) {
				forever = append(forever, pcr)
			}
			if mustBeMeasured(pcr) && allZero(v.SHA256) && !slices.Contains(zero, pcr) {
				zero = append(zero, pcr)
			}
			if !v.NotAfter.IsZero() && r.now.After(v.NotAfter) && !last.Equal(v.NotAfter) && !slices.Contains(over, pcr) {
				over = append(over, pcr)
			}
		}
	}
	if zero != nil {
		r.find(Finding{Kind: KindWeak, Where: where, Registers: zero, What: fmt.Sprintf("PCR %s may be zero: it fits a machine that measured nothing", list(zero)),
			Advice: "take the values from the image's measurements.json"})
	}
	if forever != nil {
		r.find(Finding{Kind: KindWeak, Where: where, Registers: forever, What: fmt.Sprintf("values of PCR %s never expire: an image with a flaw stays accepted", list(forever)),
			Advice: "give every value a not_after"})
	}
	if over != nil {
		r.find(Finding{Kind: KindExpired, Where: where, Registers: over, What: fmt.Sprintf("some values of PCR %s are no longer accepted, beside others that are", list(over)),
			Advice: "remove them"})
	}
	if until := Until(s); !until.IsZero() {
		r.ends(where, "it lets nobody in", until, "roll out its successor and accept that, or prolong not_after")
	}
}

// Until is when no machine passes by a set any more: the first moment at which some
// register has no value left. It is zero if that never comes.
func Until(s *accepted.Set) (first time.Time) {
	for _, values := range s.PCRs {
		if last := lastOf(values); !last.IsZero() && (first.IsZero() || last.Before(first)) {
			first = last
		}
	}
	return first
}

// lastOf is when the last of a register's values expires, zero for never.
func lastOf(values []accepted.Value) (last time.Time) {
	for _, v := range values {
		if v.NotAfter.IsZero() {
			return time.Time{}
		}
		if v.NotAfter.After(last) {
			last = v.NotAfter
		}
	}
	return last
}

// mustBeMeasured says whether each boot extends a register: what was booted.
func mustBeMeasured(pcr int) bool { return pcr == 4 || pcr == 9 || pcr == 11 }

func allZero(d measurements.Digest) bool {
	return len(d) > 0 && !slices.ContainsFunc(d, func(b byte) bool { return b != 0 })
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func list(pcrs []int) string {
	text := make([]string, len(pcrs))
	for i, pcr := range pcrs {
		text[i] = fmt.Sprint(pcr)
	}
	return strings.Join(text, ", ")
}
