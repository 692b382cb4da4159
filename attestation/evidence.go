// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation/api"
)

// EvidenceVersion is the only version of the encoding that this package knows.
const EvidenceVersion = 1

// Limits of evidence.
const (
	MaxEvidenceSize   = 256 << 10 // bytes of an encoded Evidence
	MaxParts          = 4         // parts of a composite
	MaxTechnologySize = 32        // bytes of a part's technology name
	MaxChallengeSize  = 4 << 10   // bytes of a challenge or of its response
)

// Technology names how evidence is made: that of its only part, "tpm", or those
// of a composite's parts joined by "+", "sevsnp+tpm".
type Technology string

// Valid says whether every part of the name is 1 to 32 lower-case letters,
// digits and dashes that begin with a letter, and there are at most MaxParts.
func (t Technology) Valid() bool {
	parts := strings.Split(string(t), "+")
	if len(parts) > MaxParts {
		return false
	}
	for _, p := range parts {
		if len(p) == 0 || len(p) > MaxTechnologySize || p[0] < 'a' || p[0] > 'z' {
			return false
		}
		for _, c := range []byte(p) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// Part is the evidence of one technology.
type Part struct {
	Technology Technology
	// Payload is the technology's own message.
	Payload []byte
}

// Evidence is one part, or, in a composite, several of which each vouches for
// the key that signs the next. Only the last is made over the binding itself.
type Evidence struct {
	Parts []Part
}

// NewEvidence is the evidence of a simple technology.
func NewEvidence(technology Technology, payload []byte) *Evidence {
	return &Evidence{Parts: []Part{{technology, payload}}}
}

// Technology names all parts.
func (e *Evidence) Technology() Technology {
	names := make([]string, len(e.Parts))
	for i, p := range e.Parts {
		names[i] = string(p.Technology)
	}
	return Technology(strings.Join(names, "+"))
}

// Payload returns the payload of evidence that has exactly one part, of that
// technology, and otherwise refuses with ReasonTechnology.
func (e *Evidence) Payload(technology Technology) ([]byte, error) {
	if e == nil || len(e.Parts) != 1 || e.Parts[0].Technology != technology {
		return nil, Refuse(ReasonTechnology, "evidence is not of technology %q alone", technology)
	}
	return e.Parts[0].Payload, nil
}

// Marshal encodes evidence that ParseEvidence accepts.
func (e *Evidence) Marshal() ([]byte, error) {
	m := &api.Evidence{Version: EvidenceVersion}
	for _, p := range e.Parts {
		m.Parts = append(m.Parts, &api.Part{Technology: string(p.Technology), Payload: p.Payload})
	}
	if err := checkEvidence(m); err != nil {
		return nil, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode evidence: %w", err)
	}
	if len(data) > MaxEvidenceSize {
		return nil, Refuse(ReasonTooLarge, "evidence of %d bytes, at most %d", len(data), MaxEvidenceSize)
	}
	return data, nil
}

// ParseEvidence decodes what Marshal encoded. Payloads are not looked into.
func ParseEvidence(data []byte) (*Evidence, error) {
	m := &api.Evidence{}
	if err := DecodeStrict(data, MaxEvidenceSize, m); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if err := checkEvidence(m); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e := &Evidence{Parts: make([]Part, len(m.Parts))}
	for i, p := range m.Parts {
		e.Parts[i] = Part{Technology(p.Technology), p.Payload}
	}
	return e, nil
}

func checkEvidence(m *api.Evidence) error {
	if m.Version != EvidenceVersion {
		return Refuse(ReasonVersion, "version %d, this program reads %d", m.Version, EvidenceVersion)
	}
	if len(m.Parts) == 0 {
		return Refuse(ReasonMalformed, "no parts")
	}
	if len(m.Parts) > MaxParts {
		return Refuse(ReasonTooLarge, "%d parts, at most %d", len(m.Parts), MaxParts)
	}
	for i, p := range m.Parts {
		if t := Technology(p.Technology); !t.Valid() || strings.Contains(p.Technology, "+") {
			return Refuse(ReasonMalformed, "part %d has no valid name of a technology", i)
		}
		if len(p.Payload) == 0 {
			return Refuse(ReasonMalformed, "part %d is empty", i)
		}
	}
	return nil
}
