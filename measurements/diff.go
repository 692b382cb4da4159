// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/measurements/tcg"
)

// pair is one line of two aligned sequences: a predicted event, a seen one, or both.
type pair struct {
	want *Event
	seen *tcg.Event
	same bool // both, with equal digests
}

// events aligns one PCR's predicted events with the log's and records the
// differences. settled says that the values already prove the PCR right.
func (c *comparer) events(pcr int, settled bool) {
	want := c.want[pcr]
	if c.log == nil || !InFirmwareLog(pcr) {
		for _, e := range want {
			status := StatusMatch
			if !settled {
				status = StatusUnpredicted
			}
			c.row(EventResult{PCR: pcr, Type: e.Type, Description: e.Description, Component: e.Component, Status: status, Expected: e.Digests[SHA256]})
		}
		return
	}
	if settled && c.log.Has(SHA256.TCG()) {
		// Equal values and a log that replays to them: the same digests in order.
		for _, e := range want {
			c.row(EventResult{PCR: pcr, Type: e.Type, Description: e.Description, Component: e.Component, Status: StatusMatch,
				Expected: e.Digests[SHA256], Seen: e.Digests[SHA256]})
		}
		return
	}
	var seen []*tcg.Event
	for i := range c.log.Events {
		if e := &c.log.Events[i]; e.PCR == pcr && e.Extends() {
			seen = append(seen, e)
		}
	}
	pairs := c.align(want, seen)
	for i := range pairs {
		c.pair(pcr, pairs, i)
	}
}

// invented reports what the log claims for the PCRs from first up to, not including,
// end that it cannot account for. No value of a PCR can contradict such a claim, so
// it fails whatever is enforced.
func (c *comparer) invented(first, end int) {
	if c.log == nil {
		return
	}
	for pcr := first; pcr < end; pcr++ {
		if InFirmwareLog(pcr) {
			continue
		}
		for i := range c.log.Events {
			e := &c.log.Events[i]
			if e.PCR != pcr || !e.Extends() {
				continue
			}
			row := EventResult{PCR: pcr, Type: e.Type.String(), Description: e.Describe(), Component: guess(e),
				Status: StatusMismatch, Reason: ReasonExtraEvent, Seen: e.Digest(SHA256.TCG())}
			c.row(row)
			f := Finding{PCR: pcr, Reason: ReasonExtraEvent, Fails: true, Event: row.Description, Component: row.Component,
				Bank: SHA256, Seen: row.Seen, Advice: adviceLog}
			if f.Event == "" {
				f.Event = row.Type
			}
			f.Explanation = fmt.Sprintf("%s: logged for PCR %d, %s", f.Event, pcr, whoseElse(pcr))
			c.find(f)
		}
	}
}

func (c *comparer) row(r EventResult) { c.out.Events = append(c.out.Events, r) }

// equal compares digests in every bank that both sides have.
func (c *comparer) equal(want *Event, seen *tcg.Event) bool {
	compared := false
	for _, a := range Algorithms() {
		if d := seen.Digest(a.TCG()); d != nil {
			compared = true
			if !bytes.Equal(d, want.Digests[a]) {
				return false
			}
		}
	}
	return compared
}

// align finds the longest common subsequence by digests, then sets what is left
// between two common events side by side.
func (c *comparer) align(want []*Event, seen []*tcg.Event) []pair {
	var out []pair
	for len(want) > 0 && len(seen) > 0 && c.equal(want[0], seen[0]) {
		out = append(out, pair{want[0], seen[0], true})
		want, seen = want[1:], seen[1:]
	}
	var tail []pair
	for len(want) > 0 && len(seen) > 0 && c.equal(want[len(want)-1], seen[len(seen)-1]) {
		tail = append(tail, pair{want[len(want)-1], seen[len(seen)-1], true})
		want, seen = want[:len(want)-1], seen[:len(seen)-1]
	}
	slices.Reverse(tail)
	i, j := 0, 0
	for _, m := range c.longest(want, seen) {
		out = append(out, beside(want[i:m[0]], seen[j:m[1]])...)
		out = append(out, pair{want[m[0]], seen[m[1]], true})
		i, j = m[0]+1, m[1]+1
	}
	return append(append(out, beside(want[i:], seen[j:])...), tail...)
}

// maxCells bounds the table of longest: a log of the largest size against an
// ordinary prediction fits.
const maxCells = 4 << 20

// longest returns the index pairs of a longest common subsequence.
func (c *comparer) longest(want []*Event, seen []*tcg.Event) [][2]int {
	w := len(seen) + 1
	if (len(want)+1)*w > maxCells {
		return nil
	}
	table := make([]uint16, (len(want)+1)*w)
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(seen) - 1; j >= 0; j-- {
			if c.equal(want[i], seen[j]) {
				table[i*w+j] = table[(i+1)*w+j+1] + 1
			} else {
				table[i*w+j] = max(table[(i+1)*w+j], table[i*w+j+1])
			}
		}
	}
	var out [][2]int
	for i, j := 0, 0; i < len(want) && j < len(seen); {
		switch {
		case c.equal(want[i], seen[j]):
			out = append(out, [2]int{i, j})
			i, j = i+1, j+1
		case table[(i+1)*w+j] >= table[i*w+j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// beside pairs events between two common ones. Which goes with which only
// changes the wording, so the event type may help to choose.
func beside(want []*Event, seen []*tcg.Event) []pair {
	var out []pair
	for len(want) > 0 && len(seen) > 0 {
		if want[0].Type != seen[0].Type.String() && len(want) != len(seen) {
			if len(want) > len(seen) {
				out = append(out, pair{want: want[0]})
				want = want[1:]
			} else {
				out = append(out, pair{seen: seen[0]})
				seen = seen[1:]
			}
			continue
		}
		out = append(out, pair{want: want[0], seen: seen[0]})
		want, seen = want[1:], seen[1:]
	}
	for _, e := range want {
		out = append(out, pair{want: e})
	}
	for _, e := range seen {
		out = append(out, pair{seen: e})
	}
	return out
}

// pair records one line, and a finding if it is a difference.
func (c *comparer) pair(pcr int, pairs []pair, i int) {
	p := pairs[i]
	row := EventResult{PCR: pcr, Status: StatusMatch}
	if p.want != nil {
		row.Type, row.Description, row.Component = p.want.Type, p.want.Description, p.want.Component
		row.Expected = p.want.Digests[SHA256]
	} else {
		row.Type, row.Description, row.Component = p.seen.Type.String(), p.seen.Describe(), guess(p.seen)
	}
	if p.seen != nil {
		row.Seen = p.seen.Digest(SHA256.TCG())
	}
	if p.same {
		c.row(row)
		return
	}
	row.Status, row.Reason = StatusMismatch, c.reason(pcr, pairs, p)
	if row.Reason == ReasonUnpredicted {
		row.Status = StatusUnpredicted
		c.row(row)
		return
	}
	c.row(row)
	if p.want == nil && row.Reason == ReasonOrder {
		return // told where the event belongs
	}
	f := Finding{PCR: pcr, Reason: row.Reason, Fails: c.enforced(pcr), Event: row.Description, Component: row.Component,
		Bank: SHA256, Expected: row.Expected, Seen: row.Seen}
	if f.Event == "" {
		f.Event = row.Type
	}
	if p.want != nil && p.seen != nil && bytes.Equal(f.Expected, f.Seen) { // only another bank differs
		f.Bank, f.Expected, f.Seen = SHA384, p.want.Digests[SHA384], p.seen.Digest(SHA384.TCG())
	}
	c.find(f)
}

func (c *comparer) reason(pcr int, pairs []pair, p pair) Reason {
	switch {
	case p.want != nil && c.elsewhere(pairs, p.want), p.want == nil && c.moved(pairs, p.seen):
		return ReasonOrder
	case p.want != nil && p.seen != nil:
		return ReasonDigest
	case p.want != nil:
		return ReasonMissingEvent
	case slices.ContainsFunc(c.p.Unpredicted, func(u Unpredicted) bool { return u.PCR == pcr }):
		return ReasonUnpredicted
	}
	return ReasonExtraEvent
}

// elsewhere says whether a predicted event was seen, but not where it belongs.
func (c *comparer) elsewhere(pairs []pair, want *Event) bool {
	return slices.ContainsFunc(pairs, func(q pair) bool { return !q.same && q.seen != nil && c.equal(want, q.seen) })
}

// moved is elsewhere for the other side: a predicted event equals this seen one.
func (c *comparer) moved(pairs []pair, seen *tcg.Event) bool {
	return slices.ContainsFunc(pairs, func(q pair) bool { return !q.same && q.want != nil && c.equal(q.want, seen) })
}
