// SPDX-License-Identifier: Apache-2.0

// Package attestation is the contract between those who make evidence about a
// machine and those who judge it. Each technology is a package of its own below
// this one; package attestation/atls carries evidence over a connection.
//
// An Issuer turns a Binding, 64 bytes that name one purpose at one moment, into
// Evidence. A Verifier turns evidence, the same binding and the policy that it
// was made with into Claims, or into an *Error whose Reason says why not.
//
// # Trust
//
// All of the evidence comes from the machine under judgement. A verifier takes
// every reference value, root key and limit from its policy, none from the
// evidence. What a verifier returns as claims, it has checked; a value that it
// could not check is not in there. Claims with a nil error mean that the policy
// is fulfilled, so callers authorise on claims and never on evidence.
//
// # Not guaranteed
//
// Claims are about the moment of the binding. They say what was booted and by
// which device that is vouched for, not that the running system has no flaw.
// Claims.Properties lists which properties were proven and which were not.
package attestation

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"reflect"
	"slices"
)

// BindingSize is the length of a binding in bytes: the user data that SEV-SNP
// and TDX reports have room for.
const BindingSize = 64

// Binding is what evidence is made over. Evidence proves nothing but for the
// binding that it was made for, so a binding must never be used twice: it is
// derived from fresh randomness of the verifier and from what is to be bound, for
// example a connection (package attestation/atls).
type Binding [BindingSize]byte

// keyBindingLabel separates bindings of keys from all others.
const keyBindingLabel = "constellation attestation key v1"

// KeyBinding is the binding under which one technology vouches for the key that
// signs another's evidence: SHA-512 over a label, the key's length in bytes as
// 32 bits, big endian, and the key in the form that the technology defines.
func KeyBinding(key []byte) Binding {
	h := sha512.New()
	h.Write([]byte(keyBindingLabel))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(key))))
	h.Write(key)
	return Binding(h.Sum(nil))
}

// An Issuer makes evidence about the machine that it runs on. It is safe for
// concurrent use; the device behind it may be slow, so callers who answer
// strangers bound how often they ask.
type Issuer interface {
	// Technology is what Evidence.Technology of everything issued will be.
	Technology() Technology
	// Issue makes evidence over a binding.
	Issue(ctx context.Context, binding Binding) (*Evidence, error)
}

// A Responder is an Issuer whose technology needs an answer to a verifier's
// challenge, as credential activation with a TPM does.
type Responder interface {
	Issuer
	// Respond answers a challenge to evidence that was issued over binding. The
	// challenge comes from the peer and is not trusted.
	Respond(ctx context.Context, binding Binding, challenge []byte) ([]byte, error)
}

// A Challenger sends a challenge to the prover and returns the answer. A
// verifier calls it at most MaxRounds times, one call after another.
type Challenger func(ctx context.Context, challenge []byte) (response []byte, err error)

// MaxRounds is how many challenges a verifier may send for one evidence.
const MaxRounds = 4

// A Verifier judges evidence of one technology by the policy that it was made
// with. It is safe for concurrent use.
type Verifier interface {
	// Technology is the only one that Verify accepts.
	Technology() Technology
	// Verify returns claims that fulfil the policy, or an error with an *Error in
	// its chain. challenge is nil where the prover cannot be reached; a technology
	// that needs it then refuses with ReasonChallengeMissing, unless its policy
	// explicitly waives what the challenge proves.
	Verify(ctx context.Context, evidence *Evidence, binding Binding, challenge Challenger) (*Claims, error)
}

// IsNil also sees the nil pointer that hides in an interface. Constructors ask it, for
// whom nil is a mistake and never means "without".
func IsNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan}, r.Kind()) && r.IsNil()
}
