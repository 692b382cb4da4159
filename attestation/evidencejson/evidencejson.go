// SPDX-License-Identifier: Apache-2.0

// Package evidencejson is evidence as a file that people and tools such as jq can
// take apart: the messages of attestation/api in protobuf's JSON mapping, each
// part's payload written out as its technology's own message. Byte fields are base64.
//
// Parse has limits and is strict, and judges nothing: what it returns is as
// untrusted as the file.
package evidencejson

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// MaxSize is the most bytes of a file that Parse accepts: the largest evidence in
// base64, and as much again for names and white space.
const MaxSize = 2 * (attestation.MaxEvidenceSize * 4 / 3)

// maxDepth is how deep messages may be nested in a payload.
const maxDepth = 4

// newPayload makes the empty message of each technology.
var newPayload = map[attestation.Technology]func() proto.Message{
	"tpm": func() proto.Message { return &api.TPM{} },
}

// file is the JSON form of message Evidence.
type file struct {
	Version int    `json:"version"`
	Parts   []part `json:"parts"`
}

type part struct {
	Technology attestation.Technology `json:"technology"`
	Payload    json.RawMessage        `json:"payload"`
}

// Marshal writes evidence that Parse accepts.
func Marshal(e *attestation.Evidence) ([]byte, error) {
	if _, err := e.Marshal(); err != nil { // its limits are those of evidence in any form
		return nil, err
	}
	f := file{Version: attestation.EvidenceVersion}
	for _, p := range e.Parts {
		message, err := messageOf(p.Technology)
		if err != nil {
			return nil, err
		}
		if err := attestation.DecodeStrict(p.Payload, attestation.MaxEvidenceSize, message); err != nil {
			return nil, fmt.Errorf("evidence of %s: %w", p.Technology, err)
		}
		payload, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
		if err != nil {
			return nil, fmt.Errorf("evidence of %s: %w", p.Technology, err)
		}
		f.Parts = append(f.Parts, part{p.Technology, payload})
	}
	data, err := json.MarshalIndent(f, "", "  ") // also evens out protojson's spaces, which vary
	return append(data, '\n'), err
}

// Parse reads what Marshal wrote. Its errors are refusals, with ReasonMalformed,
// ReasonTooLarge, ReasonVersion or ReasonTechnology.
func Parse(data []byte) (*attestation.Evidence, error) {
	if len(data) > MaxSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "a file of %d bytes, at most %d", len(data), MaxSize)
	}
	var f file
	if err := strictjson.Decode(data, &f); err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "not evidence in JSON: %w", err)
	}
	if f.Version != attestation.EvidenceVersion {
		return nil, attestation.Refuse(attestation.ReasonVersion, "version %d, this program reads %d", f.Version, attestation.EvidenceVersion)
	}
	if len(f.Parts) > attestation.MaxParts {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "%d parts, at most %d", len(f.Parts), attestation.MaxParts)
	}
	e := &attestation.Evidence{}
	for _, p := range f.Parts {
		payload, err := p.decode()
		if err != nil {
			return nil, err
		}
		e.Parts = append(e.Parts, attestation.Part{Technology: p.Technology, Payload: payload})
	}
	if _, err := e.Marshal(); err != nil {
		return nil, err
	}
	return e, nil
}

func (p *part) decode() ([]byte, error) {
	message, err := messageOf(p.Technology)
	if err != nil {
		return nil, err
	}
	if err := (protojson.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(p.Payload, message); err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "evidence of %s is not in the JSON form of its message", p.Technology)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(message)
}

func messageOf(t attestation.Technology) (proto.Message, error) {
	if newMessage := newPayload[t]; newMessage != nil {
		return newMessage(), nil
	}
	return nil, attestation.Refuse(attestation.ReasonTechnology, "evidence of technology %.40q is not known", t)
}
