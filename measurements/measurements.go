// SPDX-License-Identifier: Apache-2.0

// Package measurements is about what a machine's TPM must report if exactly one
// image booted: the ordered list of boot events and the PCR values that follow
// from it (Prediction), what a machine did report (Observed), and the comparison
// of the two.
//
// # Trust
//
// A Prediction is trusted: it is made from artifacts by package
// measurements/predict and reaches the verifier by a path the machine cannot
// touch. An Observed is a claim. Its PCR values become evidence only where they
// come out of a quote that was verified (package attestation); its event log
// only where it replays to those values. Compare takes every expected value
// from the Prediction, never from the Observed, and decides by digests in
// order. Event types and event data can be freely relabelled by whoever holds
// the log: they explain, and decide nothing. The one exception is that
// EV_NO_ACTION does not extend, and abusing that breaks the replay.
//
// # Not guaranteed
//
// Equal measurements say what was started. They do not say that the TPM is
// genuine, that the evidence is fresh, or that the machine still is in the state
// it booted into.
package measurements

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/measurements/printable"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Version is the only version of the JSON formats that this package reads and writes.
const Version = 1

// Limits of the parsers, in bytes and elements.
const (
	MaxPredictionSize = 1 << 20
	MaxObservedSize   = 4 << 20
	MaxName           = 128 // of an image's name, flavour and version
	maxArtifacts      = 16
	maxEvents         = 4096
	maxText           = 512 // of other text
)

// Component names who owns an event: whose artifact or setting changes it.
type Component string

// Components of a qemu machine's boot.
const (
	ComponentFirmware   Component = "firmware"        // OVMF code
	ComponentVariables  Component = "variables"       // OVMF variable store: Secure Boot state and keys
	ComponentMachine    Component = "machine"         // the machine's shape: ACPI tables, devices, boot options
	ComponentPartitions Component = "partition-table" // GPT of the disk
	ComponentUKI        Component = "uki"             // the UKI as a PE image
	ComponentKernel     Component = "kernel"          // .linux section
	ComponentInitrd     Component = "initrd"          // .initrd section
	ComponentCmdline    Component = "cmdline"         // .cmdline section
	ComponentMetadata   Component = "uki-metadata"    // the other measured sections
	ComponentOverrides  Component = "overrides"       // credentials, add-ons, command lines from outside the UKI
	ComponentIMA        Component = "ima"             // the kernel's integrity subsystem
	ComponentCluster    Component = "cluster"         // the cluster's identity
	ComponentUnknown    Component = "unknown"         // nothing of ours
)

// Event is one extension of one PCR.
type Event struct {
	PCR         int       `json:"pcr"`
	Type        string    `json:"type"`
	Digests     Digests   `json:"digests"`
	Component   Component `json:"component"`
	Description string    `json:"description"`
}

// Image says what was predicted.
type Image struct {
	Name    string `json:"name"`
	Flavour string `json:"flavour,omitempty"`
	Version string `json:"version,omitempty"`
	// Artifacts holds the SHA-256 of every input, by name.
	Artifacts map[string]Digest `json:"artifacts,omitempty"`
}

// Unpredicted names something that extends a PCR and could not be computed.
type Unpredicted struct {
	PCR   int    `json:"pcr"`
	Event string `json:"event"`
	Why   string `json:"why"`
}

// Prediction is the content of measurements.json.
type Prediction struct {
	Version int      `json:"version"`
	Image   Image    `json:"image"`
	Machine *Machine `json:"machine,omitempty"`
	// Events are all predicted events, in the order in which they happen.
	Events []Event `json:"events"`
	// PCRs holds the values that follow. PCRs with unpredicted events are absent.
	PCRs Banks `json:"pcrs"`
	// Enforced are the PCRs whose difference is a mismatch, ascending.
	Enforced []int `json:"enforced"`
	// Unpredicted are the events that are missing from Events.
	Unpredicted []Unpredicted `json:"unpredicted"`
}

// Observed is what measurementreader reports about the machine it runs on.
type Observed struct {
	Version int   `json:"version"`
	PCRs    Banks `json:"pcrs"`
	// EventLog is the firmware's log as the kernel shows it.
	EventLog []byte `json:"event_log"`
	// IMALog is the kernel's own list (binary_runtime_measurements), if readable.
	IMALog []byte `json:"ima_log,omitempty"`
	// Timings are seconds since the kernel started, by name.
	Timings map[string]float64 `json:"timings,omitempty"`
}

// MandatoryPCRs are those that no policy may leave out: what booted (4, 9, 11),
// that nothing was added to it (12, 13), and to which cluster the machine belongs
// (15).
func MandatoryPCRs() []int { return []int{4, 9, 11, 12, 13, 15} }

// EnforcedQEMU are the PCRs enforced by default on a qemu machine.
func EnforcedQEMU() []int { return []int{4, 5, 7, 8, 9, 11, 12, 13, 14, 15} }

// ErrFormat is in the chain of every error of this package's parsers.
var ErrFormat = errors.New("malformed")

// ParsePrediction reads measurements.json strictly (package strictjson): unknown
// fields, another version, a machine that cannot be, events that do not replay to the stated values are all refused.
func ParsePrediction(data []byte) (*Prediction, error) {
	p := &Prediction{}
	if err := decodeStrict(data, MaxPredictionSize, p); err != nil {
		return nil, fmt.Errorf("measurements: %w: %w", ErrFormat, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("measurements: %w: %w", ErrFormat, err)
	}
	return p, nil
}

// ParseObserved reads observed.json. The event log inside is not parsed yet.
func ParseObserved(data []byte) (*Observed, error) {
	o := &Observed{}
	if err := decodeStrict(data, MaxObservedSize, o); err != nil {
		return nil, fmt.Errorf("observed: %w: %w", ErrFormat, err)
	}
	if o.Version != Version {
		return nil, fmt.Errorf("observed: %w: version %d, this program reads %d", ErrFormat, o.Version, Version)
	}
	if err := o.PCRs.check(); err != nil {
		return nil, fmt.Errorf("observed: %w: %w", ErrFormat, err)
	}
	if len(o.Timings) > 256 {
		return nil, fmt.Errorf("observed: %w: %d timings", ErrFormat, len(o.Timings))
	}
	return o, nil
}

func decodeStrict(data []byte, limit int, into any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, at most %d", len(data), limit)
	}
	return strictjson.Decode(data, into)
}

func (p *Prediction) check() error {
	if p.Version != Version {
		return fmt.Errorf("version %d, this program reads %d", p.Version, Version)
	}
	if err := p.Image.check(); err != nil {
		return err
	}
	if p.Machine != nil {
		if err := p.Machine.Check(); err != nil {
			return err
		}
	}
	if len(p.Events) == 0 || len(p.Events) > maxEvents {
		return fmt.Errorf("%d events, want 1 to %d", len(p.Events), maxEvents)
	}
	for i, e := range p.Events {
		if err := e.check(); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	if err := p.PCRs.check(); err != nil {
		return err
	}
	for _, pcr := range MandatoryPCRs() {
		if !p.IsEnforced(pcr) {
			return fmt.Errorf("PCR %d must be enforced: the mandatory ones are %v", pcr, MandatoryPCRs())
		}
	}
	for i, pcr := range p.Enforced {
		if pcr < 0 || pcr >= PCRCount || (i > 0 && pcr <= p.Enforced[i-1]) {
			return fmt.Errorf("enforced PCRs %v are not ascending within 0 to %d", p.Enforced, PCRCount-1)
		}
	}
	for _, u := range p.Unpredicted {
		if u.PCR < 0 || u.PCR >= PCRCount || !printable.Is(u.Event, maxText) || !printable.Is(u.Why, maxText) {
			return fmt.Errorf("unpredicted event of PCR %d", u.PCR)
		}
		if slices.Contains(p.Enforced, u.PCR) {
			return fmt.Errorf("PCR %d is enforced, but %s is not predicted", u.PCR, u.Event)
		}
	}
	want := p.Replay()
	for _, a := range Algorithms() {
		if len(p.PCRs[a]) != len(want[a]) {
			return fmt.Errorf("%s bank has %d values, the events give %d", a, len(p.PCRs[a]), len(want[a]))
		}
		for i, v := range want[a] {
			if !bytes.Equal(p.PCRs[a][i], v) {
				return fmt.Errorf("%s PCR %d is not what the events give", a, i)
			}
		}
	}
	return nil
}

func (i *Image) check() error {
	if i.Name == "" || !printable.Is(i.Name, MaxName) || !printable.Is(i.Flavour, MaxName) || !printable.Is(i.Version, MaxName) {
		return fmt.Errorf("an image's name, flavour or version that is not printable ASCII of at most %d bytes", MaxName)
	}
	if len(i.Artifacts) > maxArtifacts {
		return fmt.Errorf("%d artifacts, at most %d", len(i.Artifacts), maxArtifacts)
	}
	for name, digest := range i.Artifacts {
		if !printable.Is(name, MaxName) || len(digest) != SHA256.Size() {
			return fmt.Errorf("artifact %.80q: want a printable name and a SHA-256 digest", name)
		}
	}
	return nil
}

func (e *Event) check() error {
	if e.PCR < 0 || e.PCR >= PCRCount {
		return fmt.Errorf("PCR %d is not one of 0 to %d", e.PCR, PCRCount-1)
	}
	if !printable.Is(e.Type, maxText) || !printable.Is(e.Description, maxText) || !printable.Is(string(e.Component), maxText) {
		return fmt.Errorf("text that is not printable ASCII of at most %d bytes", maxText)
	}
	for _, a := range Algorithms() {
		if e.Digests[a] == nil {
			return fmt.Errorf("no %s digest", a)
		}
	}
	return e.Digests.check()
}

// Replay computes the PCR values that follow from the events. PCRs with
// unpredicted events are absent.
func (p *Prediction) Replay() Banks {
	out := make(Banks, 2)
	for _, a := range Algorithms() {
		pcrs := make(PCRs, PCRCount)
		for i := range PCRCount {
			pcrs[i] = a.Zero()
		}
		for _, e := range p.Events {
			a.extend(pcrs[e.PCR], e.Digests[a])
		}
		for _, u := range p.Unpredicted {
			delete(pcrs, u.PCR)
		}
		out[a] = pcrs
	}
	return out
}

// JSON is the canonical form of measurements.json: indented, one trailing newline.
func (p *Prediction) JSON() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("measurements: %w", err)
	}
	out, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}

// IsEnforced says whether a difference in a PCR is a mismatch.
func (p *Prediction) IsEnforced(pcr int) bool { return slices.Contains(p.Enforced, pcr) }
