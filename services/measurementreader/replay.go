// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// A Replay compares the PCRs with what the firmware's log says went into them.
type Replay struct {
	// Events counts the log's extending events per PCR.
	Events [measurements.PCRCount]int
	// Agrees says of each PCR whether the log leads to its value, in every bank.
	Agrees [measurements.PCRCount]bool
}

// NewReplay replays the log.
func NewReplay(log []byte, banks measurements.Banks) (*Replay, error) {
	parsed, err := tcg.Parse(log)
	if err != nil {
		return nil, err
	}
	r := &Replay{}
	for i := range r.Agrees {
		r.Agrees[i] = true
	}
	for a, pcrs := range banks {
		values, err := a.ReplayLog(parsed)
		if err != nil {
			return nil, err
		}
		for i := range r.Agrees {
			r.Agrees[i] = r.Agrees[i] && bytes.Equal(values[i], pcrs[i])
		}
	}
	for _, e := range parsed.Events {
		if e.Extends() && e.PCR < measurements.PCRCount {
			r.Events[e.PCR]++
		}
	}
	return r, nil
}

// Differing are the PCRs that the log does not explain, other than the kernel's,
// which keeps a list of its own.
func (r *Replay) Differing() []int {
	var differing []int
	for pcr, agrees := range r.Agrees {
		if !agrees && pcr != measurements.KernelPCR {
			differing = append(differing, pcr)
		}
	}
	return differing
}

func list(pcrs []int) string {
	words := make([]string, len(pcrs))
	for i, pcr := range pcrs {
		words[i] = strconv.Itoa(pcr)
	}
	return strings.Join(words, ", ")
}
