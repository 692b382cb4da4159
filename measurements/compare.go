// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/measurements/tcg"
)

// Reason classifies a finding. The text of a finding is for people; programs and
// tests act on the reason.
type Reason string

// Reasons of findings.
const (
	ReasonDigest           Reason = "digest"              // an event has another digest
	ReasonMissingEvent     Reason = "missing-event"       // a predicted event did not happen
	ReasonExtraEvent       Reason = "extra-event"         // an event that is not predicted happened
	ReasonOrder            Reason = "order"               // an event happened elsewhere in the sequence
	ReasonLogDoesNotReplay Reason = "log-does-not-replay" // the log contradicts the PCR values
	ReasonValue            Reason = "value"               // a PCR differs and no log entry says why
	ReasonMissingPCR       Reason = "missing-pcr"         // a value was not reported
	ReasonMissingBank      Reason = "missing-bank"        // the TPM lacks a bank
	ReasonNoLog            Reason = "no-event-log"        // nothing to explain with
	ReasonUnpredicted      Reason = "unpredicted"         // an event that the prediction names as unknown
)

// Status is the outcome for one PCR or one event.
type Status string

// Outcomes.
const (
	StatusMatch       Status = "match"
	StatusMismatch    Status = "mismatch"
	StatusUnpredicted Status = "unpredicted" // the prediction does not cover it
	StatusExplained   Status = "explained"   // not predicted, but follows from the other PCRs
	StatusMissing     Status = "missing"     // no value was reported
)

// NoPCR is the PCR of a finding about a bank or a log as a whole.
const NoPCR = -1

// Finding is one difference.
type Finding struct {
	// PCR is NoPCR, and absent in JSON, where no single PCR is concerned.
	PCR    int    `json:"pcr"`
	Reason Reason `json:"reason"`
	// Fails says whether this finding alone makes the comparison a mismatch.
	Fails bool `json:"fails"`
	// Event is what was predicted, or for an event that was not, what the log
	// says it is. The latter is the machine's claim.
	Event     string    `json:"event"`
	Component Component `json:"component"`
	// Bank is the bank that Expected and Seen are of.
	Bank     Algorithm `json:"bank,omitempty"`
	Expected Digest    `json:"expected,omitempty"`
	Seen     Digest    `json:"seen,omitempty"`
	// Explanation says what happened, Advice what to do next.
	Explanation string `json:"explanation"`
	Advice      string `json:"advice"`
}

// plainFinding is Finding without its methods.
type plainFinding Finding

// jsonFinding is Finding's form in JSON: its PCR hides the one that is always there.
type jsonFinding struct {
	PCR *int `json:"pcr,omitempty"`
	plainFinding
}

// MarshalJSON implements json.Marshaler.
func (f Finding) MarshalJSON() ([]byte, error) {
	out := jsonFinding{plainFinding: plainFinding(f)}
	if f.PCR != NoPCR {
		out.PCR = &f.PCR
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Finding) UnmarshalJSON(data []byte) error {
	var in jsonFinding
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*f = Finding(in.plainFinding)
	if f.PCR = NoPCR; in.PCR != nil {
		f.PCR = *in.PCR
	}
	return nil
}

// PCRResult is the outcome for one PCR.
type PCRResult struct {
	PCR      int    `json:"pcr"`
	Enforced bool   `json:"enforced"`
	Status   Status `json:"status"`
	// Values of the SHA-256 bank, for display.
	ExpectedSHA256 Digest `json:"expected,omitempty"`
	SeenSHA256     Digest `json:"seen,omitempty"`
}

// EventResult is one line of the merged list of predicted and seen events.
type EventResult struct {
	PCR         int       `json:"pcr"`
	Type        string    `json:"type"`
	Description string    `json:"description"`
	Component   Component `json:"component"`
	Status      Status    `json:"status"`
	Reason      Reason    `json:"reason,omitempty"`
	Expected    Digest    `json:"expected,omitempty"`
	Seen        Digest    `json:"seen,omitempty"`
}

// Comparison is the verdict and all that explains it.
type Comparison struct {
	// Match is the verdict: every enforced PCR has its predicted value in every
	// bank that the machine has, and the log, if there is one, replays.
	Match    bool          `json:"match"`
	Banks    []Algorithm   `json:"banks"`
	PCRs     []PCRResult   `json:"pcrs"`
	Events   []EventResult `json:"events"`
	Findings []Finding     `json:"findings"`
}

// ErrLog is in the chain of errors about an event log that cannot be read.
var ErrLog = errors.New("unreadable event log")

// Reference is a prediction made ready to compare machines with. It may be used
// by several goroutines at once; the prediction must not change meanwhile.
type Reference struct {
	p *Prediction
	// byPCR are the predicted events of each PCR.
	byPCR [PCRCount][]*Event
}

// NewReference checks a prediction for consistency.
func NewReference(p *Prediction) (*Reference, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("compare: prediction: %w: %w", ErrFormat, err)
	}
	r := &Reference{p: p}
	for i := range p.Events {
		e := &p.Events[i]
		r.byPCR[e.PCR] = append(r.byPCR[e.PCR], e)
	}
	return r, nil
}

// Compare judges what was observed by a prediction. It is NewReference and
// Reference.Compare in one.
func Compare(p *Prediction, o *Observed) (*Comparison, error) {
	r, err := NewReference(p)
	if err != nil {
		return nil, err
	}
	return r.Compare(o)
}

// Compare judges what was observed. It returns an error only for input that
// cannot be judged, as a malformed log; every difference is a finding.
func (r *Reference) Compare(o *Observed) (*Comparison, error) {
	if err := o.PCRs.check(); err != nil {
		return nil, fmt.Errorf("compare: observed: %w: %w", ErrFormat, err)
	}
	c := &comparer{p: r.p, want: &r.byPCR, o: o, out: &Comparison{
		Match:  true,
		PCRs:   make([]PCRResult, 0, PCRCount),
		Events: make([]EventResult, 0, len(r.p.Events)+8),
	}}
	if len(o.EventLog) > 0 {
		log, err := tcg.Parse(o.EventLog)
		if err != nil {
			return nil, fmt.Errorf("compare: %w: %w", ErrLog, err)
		}
		c.log = log
	}
	c.banks()
	c.replay()
	if err := c.pcrs(); err != nil {
		return nil, err
	}
	return c.out, nil
}

type comparer struct {
	p    *Prediction
	want *[PCRCount][]*Event
	o    *Observed
	log  *tcg.Log // nil if there is none
	out  *Comparison
	// replayed is what the log leads to, by compared bank; nil where it has no digests.
	replayed [][PCRCount]Digest
}

func (c *comparer) find(f Finding) {
	explain(&f)
	c.out.Findings = append(c.out.Findings, f)
	c.out.Match = c.out.Match && !f.Fails
}

func (c *comparer) enforced(pcr int) bool { return c.p.IsEnforced(pcr) }

// banks decides which banks are compared: SHA-256 must be there.
func (c *comparer) banks() {
	for _, a := range Algorithms() {
		if len(c.o.PCRs[a]) > 0 {
			c.out.Banks = append(c.out.Banks, a)
			continue
		}
		c.find(Finding{PCR: NoPCR, Reason: ReasonMissingBank, Fails: a == SHA256, Component: ComponentMachine, Bank: a, Event: string(a) + " bank"})
	}
	if c.log == nil {
		c.find(Finding{PCR: NoPCR, Reason: ReasonNoLog, Component: ComponentFirmware, Event: "event log"})
	}
}

// replay computes where the log leads to, in each compared bank that it covers.
func (c *comparer) replay() {
	if c.log == nil {
		return
	}
	c.replayed = make([][PCRCount]Digest, len(c.out.Banks))
	for i, a := range c.out.Banks {
		if values, err := a.ReplayLog(c.log); err == nil {
			c.replayed[i] = values
		}
	}
}

func (c *comparer) pcrs() error {
	for pcr := range PCRCount {
		r := PCRResult{PCR: pcr, Enforced: c.enforced(pcr), Status: StatusMatch,
			ExpectedSHA256: c.p.PCRs[SHA256][pcr], SeenSHA256: c.o.PCRs[SHA256][pcr]}
		_, known := c.p.PCRs[SHA256][pcr]
		if !known {
			r.Status = StatusUnpredicted
		}
		before := len(c.out.Findings)
		compared, equal := c.values(&r, known)
		replays := c.replays(pcr)
		// The log's events are set against the predicted ones, to show them and to
		// name the difference where there is one.
		c.events(pcr, known && compared && equal && replays)
		if pcr == KernelPCR {
			if err := c.kernelList(); err != nil {
				return err
			}
		}
		switch {
		case pcr == KernelPCR && r.Status != StatusMatch && c.isBootAggregate():
			// It follows from PCR 0 to 9, whose differences are told.
			r.Status = StatusExplained
		case known && compared && !equal && len(c.out.Findings) == before:
			c.find(Finding{PCR: pcr, Reason: ReasonValue, Fails: r.Enforced, Component: c.owner(pcr), Event: fmt.Sprintf("value of PCR %d", pcr),
				Bank: SHA256, Expected: r.ExpectedSHA256, Seen: r.SeenSHA256})
		}
		c.invented(pcr, pcr+1)
		c.out.PCRs = append(c.out.PCRs, r)
	}
	c.invented(PCRCount, tcg.MaxPCR+1)
	return nil
}

// values compares one PCR in every bank. It says whether there was any value to
// compare, and whether all were as predicted.
func (c *comparer) values(r *PCRResult, known bool) (compared, equal bool) {
	equal = true
	for _, a := range c.out.Banks {
		seen, ok := c.o.PCRs[a][r.PCR]
		if !ok {
			equal = false
			c.find(Finding{PCR: r.PCR, Reason: ReasonMissingPCR, Fails: r.Enforced, Component: ComponentMachine, Bank: a,
				Event: fmt.Sprintf("value of PCR %d", r.PCR), Expected: c.p.PCRs[a][r.PCR]})
			continue
		}
		compared = true
		if known && !bytes.Equal(seen, c.p.PCRs[a][r.PCR]) {
			r.Status, equal = StatusMismatch, false
			// The verdict is made here, by the values; findings explain it.
			c.out.Match = c.out.Match && !r.Enforced
		}
	}
	if !compared || (known && !equal && r.Status == StatusMatch) {
		r.Status = StatusMissing
	}
	return compared, equal
}

// replays says whether the log gives the PCR's value in every bank. PCRs that the
// operating system extends are in no firmware log: 10 by the kernel, 15 by us.
func (c *comparer) replays(pcr int) bool {
	if c.log == nil || !InFirmwareLog(pcr) {
		return true
	}
	for i, a := range c.out.Banks {
		value := c.replayed[i][pcr]
		seen, reported := c.o.PCRs[a][pcr]
		if value != nil && reported && !bytes.Equal(value, seen) {
			c.find(Finding{PCR: pcr, Reason: ReasonLogDoesNotReplay, Fails: true, Component: c.owner(pcr), Bank: a,
				Event: fmt.Sprintf("event log of PCR %d", pcr), Expected: seen, Seen: value})
			return false
		}
	}
	return true
}

// owner is the component to look at first for a PCR as a whole.
func (c *comparer) owner(pcr int) Component {
	return [PCRCount]Component{ComponentFirmware, ComponentMachine, ComponentMachine, ComponentMachine,
		ComponentUKI, ComponentPartitions, ComponentFirmware, ComponentVariables, ComponentUnknown,
		ComponentCmdline, ComponentIMA, ComponentUKI, ComponentOverrides, ComponentOverrides,
		ComponentUnknown, ComponentCluster}[pcr]
}

func (c *comparer) isBootAggregate() bool {
	for _, a := range c.out.Banks {
		want, err := BootAggregate(c.o.PCRs[SHA256])
		if err != nil || !bytes.Equal(a.Extend(a.Zero(), want[a]), c.o.PCRs[a][KernelPCR]) {
			return false
		}
	}
	return true
}
