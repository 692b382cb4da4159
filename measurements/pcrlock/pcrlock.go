// SPDX-License-Identifier: Apache-2.0

// Package pcrlock exports a prediction in the format of systemd-pcrlock(8): one
// component whose records are the predicted events, so that systemd's tool can
// check a running machine, and make TPM policies, from the same prediction.
//
// Only PCRs whose events are all predicted are exported, because the tool takes a
// component as complete. PCR 10 is left out too: its events are in the kernel's
// own list, which the tool does not read.
package pcrlock

import (
	"encoding/json"
	"fmt"

	"github.com/constellation-os/constellation/measurements"
)

// file is a .pcrlock file (systemd.pcrlock(5)), a subset of the TCG Canonical
// Event Log Format in JSON.
type file struct {
	Records []record `json:"records"`
}

type record struct {
	PCR     int      `json:"pcr"`
	Digests []digest `json:"digests"`
}

type digest struct {
	HashAlg measurements.Algorithm `json:"hashAlg"`
	Digest  measurements.Digest    `json:"digest"`
}

// Encode makes a .pcrlock file.
func Encode(p *measurements.Prediction) ([]byte, error) {
	f := file{Records: []record{}}
	for _, e := range p.Events {
		if _, complete := p.PCRs[measurements.SHA256][e.PCR]; !complete || e.PCR == measurements.KernelPCR {
			continue
		}
		r := record{PCR: e.PCR}
		for _, a := range measurements.Algorithms() {
			r.Digests = append(r.Digests, digest{a, e.Digests[a]})
		}
		f.Records = append(f.Records, r)
	}
	if len(f.Records) == 0 {
		return nil, fmt.Errorf("pcrlock: the prediction has no complete PCR")
	}
	out, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("pcrlock: %w", err)
	}
	return append(out, '\n'), nil
}
