// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/policy"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// value is what PCR pcr of an image holds.
func value(image string, pcr int) policy.Value {
	d := measurements.Sum([]byte(fmt.Sprint(image, pcr)))
	return policy.Value{SHA256: d[measurements.SHA256], SHA384: d[measurements.SHA384]}
}

func set(image string) policy.Set {
	s := policy.Set{Name: image, PCRs: map[int][]policy.Value{}}
	for _, pcr := range measurements.MandatoryPCRs() {
		s.PCRs[pcr] = []policy.Value{value(image, pcr)}
	}
	return s
}

// machine is what a machine running an image reports.
func machine(image string) measurements.Banks {
	b := measurements.Banks{measurements.SHA256: {}, measurements.SHA384: {}}
	for pcr := range measurements.PCRCount {
		v := value(image, pcr)
		b[measurements.SHA256][pcr], b[measurements.SHA384][pcr] = v.SHA256, v.SHA384
	}
	return b
}

func check(t *testing.T, err error, reason policy.Reason, registers ...int) {
	t.Helper()
	var e *policy.Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Fatalf("got %v, want reason %s", err, reason)
	}
	if diff := cmp.Diff(registers, e.Registers); diff != "" {
		t.Error("registers (-want +got):", diff)
	}
}

func TestParse(t *testing.T) {
	s := set("a")
	s.PCRs[15][0].NotAfter = now
	want := &policy.Policy{Version: 1, Accepted: []policy.Set{s, set("b")}}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

// V21: what accepts nothing in particular does not load.
func TestWeakPolicies(t *testing.T) {
	without := func(pcrs ...int) string {
		s := set("a")
		for _, pcr := range pcrs {
			delete(s.PCRs, pcr)
		}
		return encode(t, s)
	}
	empty := set("a")
	empty.PCRs[12] = nil
	short := set("a")
	short.PCRs[12][0].SHA256 = short.PCRs[12][0].SHA256[:31]
	zero := set("a")
	zero.PCRs[12][0] = policy.Value{}
	only384 := set("a")
	only384.PCRs[12][0].SHA256 = nil
	extra := set("a")
	extra.PCRs[16] = []policy.Value{value("a", 16)}
	tests := map[string]struct {
		text      string
		reason    policy.Reason
		registers []int
	}{
		"empty file":              {"", policy.ReasonMalformed, nil},
		"null":                    {"null", policy.ReasonVersion, nil},
		"empty object":            {"{}", policy.ReasonVersion, nil},
		"no sets":                 {`{"version":1}`, policy.ReasonEmpty, []int{4, 9, 11, 12, 13, 15}},
		"no sets in the list":     {`{"version":1,"accepted":[]}`, policy.ReasonEmpty, []int{4, 9, 11, 12, 13, 15}},
		"empty set":               {`{"version":1,"accepted":[{"name":"a","pcrs":{}}]}`, policy.ReasonMissingRegisters, []int{4, 9, 11, 12, 13, 15}},
		"one register missing":    {without(12), policy.ReasonMissingRegisters, []int{12}},
		"two registers missing":   {without(4, 15), policy.ReasonMissingRegisters, []int{4, 15}},
		"register without values": {encode(t, empty), policy.ReasonMissingRegisters, []int{12}},
		"second set is weak":      {encode(t, set("a"), policy.Set{Name: "b"}), policy.ReasonMissingRegisters, []int{4, 9, 11, 12, 13, 15}},
		"short value":             {encode(t, short), policy.ReasonValue, []int{12}},
		"value without digests":   {encode(t, zero), policy.ReasonValue, []int{12}},
		"only SHA-384":            {encode(t, only384), policy.ReasonValue, []int{12}},
		"PCR 16":                  {encode(t, extra), policy.ReasonValue, []int{16}},
		"no name":                 {strings.Replace(encode(t, set("a")), `"name":"a"`, `"name":""`, 1), policy.ReasonValue, nil},
		"unknown field":           {strings.Replace(encode(t, set("a")), `"name"`, `"allow_all":true,"name"`, 1), policy.ReasonMalformed, nil},
		"register twice":          {changed(t, `"4":`, `"4":[],"4":`), policy.ReasonMalformed, nil},
		"register as 04":          {changed(t, `"4":`, `"04":[],"4":`), policy.ReasonMalformed, nil},
		"register as +11":         {changed(t, `"11":`, `"+11":`), policy.ReasonMalformed, nil},
		"name twice":              {changed(t, `"name":"a"`, `"name":"b","name":"a"`), policy.ReasonMalformed, nil},
		"field in another case":   {changed(t, `"sha256"`, `"SHA256"`), policy.ReasonMalformed, nil},
		"accepted twice":          {changed(t, `"accepted"`, `"accepted":[],"accepted"`), policy.ReasonMalformed, nil},
		"deep":                    {strings.Repeat(`{"version":`, 1000), policy.ReasonMalformed, nil},
		"other version":           {strings.Replace(encode(t, set("a")), `"version":1`, `"version":2`, 1), policy.ReasonVersion, nil},
		"trailing data":           {encode(t, set("a")) + "x", policy.ReasonMalformed, nil},
		"too large":               {strings.Repeat(" ", policy.MaxSize+1), policy.ReasonTooLarge, nil},
		"too many sets":           {encode(t, make([]policy.Set, 65)...), policy.ReasonTooLarge, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Parse([]byte(test.text))
			check(t, err, test.reason, test.registers...)
		})
	}
}

// changed is a good policy with its first from replaced.
func changed(t *testing.T, from, to string) string {
	t.Helper()
	text := encode(t, set("a"))
	if !strings.Contains(text, from) {
		t.Fatalf("the policy has no %s", from)
	}
	return strings.Replace(text, from, to, 1)
}

func encode(t *testing.T, sets ...policy.Set) string {
	t.Helper()
	data, err := json.Marshal(policy.Policy{Version: 1, Accepted: sets})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCheck(t *testing.T) {
	a, b := set("a"), set("b")
	for pcr := range b.PCRs {
		b.PCRs[pcr][0].NotAfter = now
	}
	// PCR 15 of image a has two values: fresh and initialised.
	a.PCRs[15] = append(a.PCRs[15], value("cluster", 15))
	p := &policy.Policy{Version: 1, Accepted: []policy.Set{a, b}}

	accepted := map[string]struct {
		pcrs measurements.Banks
		at   time.Time
		want string
	}{
		"image a":                 {machine("a"), now, "a"},
		"image b before its end":  {machine("b"), now, "b"},
		"image a without SHA-384": {measurements.Banks{measurements.SHA256: machine("a")[measurements.SHA256]}, now, "a"},
		"image a in its cluster":  {with(machine("a"), "cluster", 15), now, "a"},
		"a PCR that is not named": {with(machine("a"), "x", 0), now, "a"},
	}
	for name, test := range accepted {
		if s, err := p.Check(test.pcrs, test.at); err != nil || s.Name != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}

	without := machine("a")
	delete(without[measurements.SHA256], 13)
	only384 := machine("a")
	only384[measurements.SHA384][9] = value("x", 9).SHA384
	refused := map[string]struct {
		pcrs      measurements.Banks
		at        time.Time
		reason    policy.Reason
		registers []int
	}{
		"image b after its end":         {machine("b"), now.Add(time.Second), policy.ReasonExpired, []int{4, 9, 11, 12, 13, 15}},
		"another image":                 {machine("c"), now, policy.ReasonMismatch, []int{4, 9, 11, 12, 13, 15}},
		"one PCR of another image":      {with(machine("a"), "c", 11), now, policy.ReasonMismatch, []int{11}},
		"image a with b's command line": {with(machine("a"), "b", 9), now, policy.ReasonMismatch, []int{9}},
		"SHA-384 of another image":      {only384, now, policy.ReasonMismatch, []int{9}},
		"PCR 13 outside the selection":  {without, now, policy.ReasonMissingPCR, []int{13}},
		"no SHA-256 bank":               {measurements.Banks{measurements.SHA384: machine("a")[measurements.SHA384]}, now, policy.ReasonMissingPCR, []int{4, 9, 11, 12, 13, 15}},
		"nothing":                       {nil, now, policy.ReasonMissingPCR, []int{4, 9, 11, 12, 13, 15}},
	}
	for name, test := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := p.Check(test.pcrs, test.at)
			check(t, err, test.reason, test.registers...)
		})
	}
	_, err := (&policy.Policy{Version: 1}).Check(machine("a"), now)
	check(t, err, policy.ReasonEmpty, 4, 9, 11, 12, 13, 15)
}

// with replaces one PCR's value by another image's.
func with(b measurements.Banks, image string, pcr int) measurements.Banks {
	v := value(image, pcr)
	b[measurements.SHA256][pcr], b[measurements.SHA384][pcr] = v.SHA256, v.SHA384
	return b
}

func TestFromPrediction(t *testing.T) {
	p := &measurements.Prediction{Enforced: measurements.EnforcedQEMU(), PCRs: machine("a")}
	s, err := policy.FromPrediction(p, "a", now)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.PCRs) != len(p.Enforced) || !s.PCRs[7][0].NotAfter.Equal(now) {
		t.Errorf("set %+v", s)
	}
	if _, err := (&policy.Policy{Version: 1, Accepted: []policy.Set{*s}}).Check(machine("a"), now); err != nil {
		t.Error(err)
	}
	p.Enforced = []int{4}
	_, err = policy.FromPrediction(p, "a", now)
	check(t, err, policy.ReasonMissingRegisters, 9, 11, 12, 13, 15)
}

func FuzzParse(f *testing.F) {
	data, err := json.Marshal(policy.Policy{Version: 1, Accepted: []policy.Set{set("a")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		if err != nil {
			var e *policy.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		for _, s := range p.Accepted {
			for _, pcr := range measurements.MandatoryPCRs() {
				if len(s.PCRs[pcr]) == 0 {
					t.Fatalf("a policy without PCR %d was accepted", pcr)
				}
			}
		}
	})
}
