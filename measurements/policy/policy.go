// SPDX-License-Identifier: Apache-2.0

// Package policy says which PCR values a verifier accepts.
//
// A policy is a list of accepted sets, one per image. A machine passes if all its
// values are found within one set: values of different images are never mixed, so
// that the kernel of one cannot run with the command line of another. During a
// roll-out several sets are accepted; every value can expire.
//
// A policy that names too little is an error when it is loaded, never a policy
// that lets more machines pass: every set must name PCR 4, 9, 11, 12, 13 and 15.
// Values that Check is given must come from a verified quote; PCRs outside the
// quote's selection must not be among them.
package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Version is the only version of the JSON format.
const Version = 1

// Limits of Parse.
const (
	MaxSize   = 1 << 20 // bytes of JSON
	maxSets   = 64      // accepted sets
	maxValues = 16      // values of one PCR in one set
	maxName   = 256     // bytes
)

// Policy is what a verifier accepts.
type Policy struct {
	Version  int   `json:"version"`
	Accepted []Set `json:"accepted"`
}

// Set is the values of one image.
type Set struct {
	// Name tells people which image it is.
	Name string `json:"name"`
	// PCRs are the accepted values of each PCR.
	PCRs map[int][]Value `json:"pcrs"`
}

// Value is one accepted value of a PCR.
type Value struct {
	SHA256 measurements.Digest `json:"sha256"`
	// SHA384 is compared too where the machine has the bank.
	SHA384 measurements.Digest `json:"sha384,omitempty"`
	// NotAfter ends the acceptance; zero means never.
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Reason classifies errors of this package.
type Reason string

// Reasons of Parse and Validate.
const (
	ReasonMalformed        Reason = "malformed"         // not JSON of this format
	ReasonTooLarge         Reason = "too-large"         // a limit of this package was exceeded
	ReasonVersion          Reason = "version"           // another version of the format
	ReasonEmpty            Reason = "empty"             // nothing is accepted
	ReasonMissingRegisters Reason = "missing-registers" // a set lacks mandatory PCRs
	ReasonValue            Reason = "value"             // a value is malformed or missing
)

// Reasons of Check.
const (
	ReasonExpired    Reason = "expired"     // the values were accepted once
	ReasonMismatch   Reason = "mismatch"    // no set has these values
	ReasonMissingPCR Reason = "missing-pcr" // a PCR that the policy names was not quoted
)

// Error is returned by this package.
type Error struct {
	Reason Reason
	// Registers are the PCRs concerned, ascending: those that a set does not
	// name, that were not quoted, or that differ from the closest set.
	Registers []int
	Detail    string
}

func (e *Error) Error() string { return "policy: " + string(e.Reason) + ": " + e.Detail }

func fail(reason Reason, registers []int, format string, args ...any) error {
	return &Error{reason, registers, fmt.Sprintf(format, args...)}
}

// Parse reads a policy strictly (package strictjson) and validates it.
func Parse(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fail(ReasonTooLarge, nil, "%d bytes, at most %d", len(data), MaxSize)
	}
	p := &Policy{}
	if err := strictjson.Decode(data, p); err != nil {
		return nil, fail(ReasonMalformed, nil, "%v", err)
	}
	return p, p.Validate()
}

// Validate says what is wrong with a policy, nil if nothing is.
func (p *Policy) Validate() error {
	if p.Version != Version {
		return fail(ReasonVersion, nil, "version %d, this program reads %d", p.Version, Version)
	}
	if len(p.Accepted) == 0 {
		return fail(ReasonEmpty, measurements.MandatoryPCRs(), "it accepts no measurements; it must name PCR %s", list(measurements.MandatoryPCRs()))
	}
	if len(p.Accepted) > maxSets {
		return fail(ReasonTooLarge, nil, "%d accepted sets, at most %d", len(p.Accepted), maxSets)
	}
	for i := range p.Accepted {
		if err := p.Accepted[i].validate(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) validate() error {
	if s.Name == "" || len(s.Name) > maxName {
		return fail(ReasonValue, nil, "a set's name has %d bytes, want 1 to %d", len(s.Name), maxName)
	}
	var missing []int
	for _, pcr := range measurements.MandatoryPCRs() {
		if len(s.PCRs[pcr]) == 0 {
			missing = append(missing, pcr)
		}
	}
	if missing != nil {
		return fail(ReasonMissingRegisters, missing, "set %q does not name PCR %s", s.Name, list(missing))
	}
	for _, pcr := range s.registers() {
		values := s.PCRs[pcr]
		switch {
		case pcr < 0 || pcr >= measurements.PCRCount:
			return fail(ReasonValue, []int{pcr}, "set %q names PCR %d, want 0 to %d", s.Name, pcr, measurements.PCRCount-1)
		case len(values) == 0:
			return fail(ReasonValue, []int{pcr}, "set %q has no value for PCR %d", s.Name, pcr)
		case len(values) > maxValues:
			return fail(ReasonTooLarge, []int{pcr}, "set %q has %d values for PCR %d, at most %d", s.Name, len(values), pcr, maxValues)
		}
		for _, v := range values {
			if len(v.SHA256) != measurements.SHA256.Size() || (len(v.SHA384) != 0 && len(v.SHA384) != measurements.SHA384.Size()) {
				return fail(ReasonValue, []int{pcr}, "set %q: a value of PCR %d is not a SHA-256 and, if given, SHA-384 digest", s.Name, pcr)
			}
		}
	}
	return nil
}

// registers are the named PCRs, ascending.
func (s *Set) registers() []int {
	out := make([]int, 0, len(s.PCRs))
	for pcr := range s.PCRs {
		out = append(out, pcr)
	}
	slices.Sort(out)
	return out
}

// FromPrediction accepts the enforced PCRs of a prediction until notAfter, for
// ever if that is zero.
func FromPrediction(p *measurements.Prediction, name string, notAfter time.Time) (*Set, error) {
	s := &Set{Name: name, PCRs: make(map[int][]Value)}
	for _, pcr := range p.Enforced {
		s.PCRs[pcr] = []Value{{SHA256: p.PCRs[measurements.SHA256][pcr], SHA384: p.PCRs[measurements.SHA384][pcr], NotAfter: notAfter}}
	}
	return s, s.validate()
}

// Check returns the first set that has all the values, or why there is none.
func (p *Policy) Check(pcrs measurements.Banks, now time.Time) (*Set, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var closest *Error
	for i := range p.Accepted {
		s := &p.Accepted[i]
		err := s.check(pcrs, now)
		if err == nil {
			return s, nil
		}
		if closest == nil || err.closer(closest) {
			closest = err
		}
	}
	return nil, closest
}

// closer says whether e is the more telling refusal: expired before different,
// few different PCRs before many.
func (e *Error) closer(f *Error) bool {
	rank := func(e *Error) int {
		return slices.Index([]Reason{ReasonExpired, ReasonMismatch, ReasonMissingPCR}, e.Reason)
	}
	if rank(e) != rank(f) {
		return rank(e) < rank(f)
	}
	return len(e.Registers) < len(f.Registers)
}

func (s *Set) check(pcrs measurements.Banks, now time.Time) *Error {
	var missing, different, expired []int
	for _, pcr := range s.registers() {
		seen, ok := pcrs[measurements.SHA256][pcr]
		if !ok {
			missing = append(missing, pcr)
			continue
		}
		equal, valid := false, false
		for _, v := range s.PCRs[pcr] {
			if !v.equals(seen, pcrs[measurements.SHA384], pcr) {
				continue
			}
			equal = true
			valid = valid || v.NotAfter.IsZero() || !now.After(v.NotAfter)
		}
		switch {
		case !equal:
			different = append(different, pcr)
		case !valid:
			expired = append(expired, pcr)
		}
	}
	switch {
	case missing != nil:
		return &Error{ReasonMissingPCR, missing, fmt.Sprintf("PCR %s was not quoted", list(missing))}
	case different != nil:
		return &Error{ReasonMismatch, different, fmt.Sprintf("no accepted image has these values; closest is %q, which differs in PCR %s", s.Name, list(different))}
	case expired != nil:
		return &Error{ReasonExpired, expired, fmt.Sprintf("image %q is no longer accepted", s.Name)}
	}
	return nil
}

func (v *Value) equals(sha256 measurements.Digest, sha384 measurements.PCRs, pcr int) bool {
	if !bytes.Equal(v.SHA256, sha256) {
		return false
	}
	other, ok := sha384[pcr]
	return !ok || len(v.SHA384) == 0 || bytes.Equal(v.SHA384, other)
}

func list(pcrs []int) string {
	var s []string
	for _, p := range pcrs {
		s = append(s, fmt.Sprint(p))
	}
	return strings.Join(s, ", ")
}
