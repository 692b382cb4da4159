// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"bytes"
	"fmt"
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
		values, err := replayBank(parsed, a)
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

func replayBank(log *tcg.Log, a measurements.Algorithm) (measurements.PCRs, error) {
	if !log.Has(a.TCG()) {
		return nil, fmt.Errorf("the log has no %s digests", a)
	}
	values := make(measurements.PCRs, measurements.PCRCount)
	for i := range measurements.PCRCount {
		values[i] = a.Zero()
	}
	values[0][a.Size()-1] = log.StartupLocality
	for _, e := range log.Events {
		if e.Extends() && e.PCR < measurements.PCRCount {
			values[e.PCR] = a.Extend(values[e.PCR], e.Digest(a.TCG()))
		}
	}
	return values, nil
}

// kernelPCR is extended by the kernel's integrity subsystem, which keeps a list
// of its own: the firmware's log says nothing about it.
const kernelPCR = 10

// Differing are the PCRs that the log does not explain, other than the kernel's.
func (r *Replay) Differing() []int {
	var differing []int
	for pcr, agrees := range r.Agrees {
		if !agrees && pcr != kernelPCR {
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
