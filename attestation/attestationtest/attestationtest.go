// SPDX-License-Identifier: Apache-2.0

// Package attestationtest is a technology for tests: evidence is signed by a key
// in memory and says whatever the test wants. It has the shape of a real one
// (device identity, measured image, signature over the binding, challenges) and
// proves nothing. No program that ships may link it: a test of this package
// follows the imports of every main package of the module.
package attestationtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/attestation"
)

// Technology is the name of evidence from this package.
const Technology attestation.Technology = "test"

// Labels keep a signature from passing as one of another kind.
const (
	quoteLabel    = "test evidence"
	responseLabel = "test response"
)

// statement is the payload's signed part.
type statement struct {
	Device  []byte `json:"device"`
	Image   string `json:"image"`
	Binding []byte `json:"binding"`
	Padding []byte `json:"padding,omitempty"`
}

type payload struct {
	Statement []byte `json:"statement"`
	Signature []byte `json:"signature"`
}

// Device is an Issuer and Responder.
type Device struct {
	// Name of the technology; NewDevice sets the package's.
	Name attestation.Technology
	// Image is what the device says was booted.
	Image string
	// Padding makes evidence larger by so many bytes.
	Padding int
	// OnIssue, if set, is called for each Issue and may delay or fail it.
	OnIssue func(ctx context.Context) error

	key ed25519.PrivateKey
}

// NewDevice makes a device with a fresh key.
func NewDevice(image string) *Device {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return &Device{Name: Technology, Image: image, key: key}
}

// NewDeviceFromSeed makes a device whose key comes from a seed, so that two programs of a
// test know the same one.
func NewDeviceFromSeed(image string, seed [ed25519.SeedSize]byte) *Device {
	return &Device{Name: Technology, Image: image, key: ed25519.NewKeyFromSeed(seed[:])}
}

// Public is the device's key.
func (d *Device) Public() []byte { return d.key.Public().(ed25519.PublicKey) }

// Technology implements attestation.Issuer.
func (d *Device) Technology() attestation.Technology { return d.Name }

// Issue implements attestation.Issuer.
func (d *Device) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	if d.OnIssue != nil {
		if err := d.OnIssue(ctx); err != nil {
			return nil, err
		}
	}
	s, err := json.Marshal(statement{d.Public(), d.Image, b[:], make([]byte, d.Padding)})
	if err != nil {
		return nil, err
	}
	p, err := json.Marshal(payload{s, ed25519.Sign(d.key, append([]byte(quoteLabel), s...))})
	if err != nil {
		return nil, err
	}
	return attestation.NewEvidence(d.Name, p), nil
}

// Respond implements attestation.Responder.
func (d *Device) Respond(_ context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	return ed25519.Sign(d.key, responseInput(b, challenge)), nil
}

func responseInput(b attestation.Binding, challenge []byte) []byte {
	return slices.Concat([]byte(responseLabel), b[:], challenge)
}

// Policy is a Verifier.
type Policy struct {
	// Name of the technology; empty for the package's.
	Name attestation.Technology
	// Images that are accepted.
	Images []string
	// Devices that are trusted, by key, and what each is granted.
	Devices map[string]attestation.Grant
	// Rounds is how many challenges the prover must answer.
	Rounds int
}

// Accept makes a policy that trusts these devices and their images.
func Accept(devices ...*Device) *Policy {
	p := &Policy{Devices: map[string]attestation.Grant{}}
	for i, d := range devices {
		p.Images = append(p.Images, d.Image)
		p.Devices[string(d.Public())] = attestation.Grant{Name: fmt.Sprintf("device-%d", i), Role: "worker"}
	}
	return p
}

// Technology implements attestation.Verifier.
func (p *Policy) Technology() attestation.Technology {
	if p.Name == "" {
		return Technology
	}
	return p.Name
}

// Verify implements attestation.Verifier.
func (p *Policy) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	raw, err := e.Payload(p.Technology())
	if err != nil {
		return nil, err
	}
	var m payload
	var s statement
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "payload: %w", err)
	}
	if err := json.Unmarshal(m.Statement, &s); err != nil || len(s.Device) != ed25519.PublicKeySize {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "statement of %d bytes", len(m.Statement))
	}
	if !ed25519.Verify(s.Device, append([]byte(quoteLabel), m.Statement...), m.Signature) {
		return nil, attestation.Refuse(attestation.ReasonSignature, "not signed by its device")
	}
	if !slices.Equal(s.Binding, b[:]) {
		return nil, attestation.Refuse(attestation.ReasonBinding, "made for another binding")
	}
	grant, ok := p.Devices[string(s.Device)]
	if !ok {
		return nil, attestation.Refuse(attestation.ReasonIdentity, "unknown device")
	}
	if !slices.Contains(p.Images, s.Image) {
		return nil, attestation.Refuse(attestation.ReasonMeasurements, "image is not accepted")
	}
	if err := p.challenge(ctx, &s, b, ask); err != nil {
		return nil, err
	}
	id := sha256.Sum256(s.Device)
	return &attestation.Claims{
		Technology: p.Technology(),
		Image:      s.Image,
		Identities: []attestation.Identity{{Kind: attestation.ChipID, Value: id[:]}},
		Grant:      &grant,
		Debug:      attestation.DebugUnknown,
		Properties: attestation.Properties{attestation.PropertyFresh, attestation.PropertyBoot, attestation.PropertyEndorsed},
		Key:        s.Device,
	}, nil
}

func (p *Policy) challenge(ctx context.Context, s *statement, b attestation.Binding, ask attestation.Challenger) error {
	if p.Rounds > 0 && ask == nil {
		return attestation.Refuse(attestation.ReasonChallengeMissing, "the prover cannot be asked")
	}
	for range p.Rounds {
		nonce := []byte(rand.Text())
		response, err := ask(ctx, nonce)
		if err != nil {
			return err
		}
		if !ed25519.Verify(s.Device, responseInput(b, nonce), response) {
			return attestation.Refuse(attestation.ReasonChallenge, "wrong answer")
		}
	}
	return nil
}
