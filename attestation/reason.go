// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"errors"
	"fmt"
)

// Reason says why evidence, or the exchange that carries it, was refused. The
// numbers are part of the protocol (docs/atls.md): they are never reused.
type Reason uint16

// Reasons of the exchange.
const (
	// ReasonMalformed: bytes that are not what the protocol or a format says.
	ReasonMalformed Reason = 1
	// ReasonTooLarge: a length above its limit.
	ReasonTooLarge Reason = 2
	// ReasonVersion: a version that this program does not speak.
	ReasonVersion Reason = 3
	// ReasonUnexpected: a well-formed message at a moment where it has no place.
	ReasonUnexpected Reason = 4
	// ReasonRole: the peer claims a role that is not its own, or sent back our own nonce.
	ReasonRole Reason = 5
	// ReasonMode: one side demands evidence that the other does not offer, or the reverse.
	ReasonMode Reason = 6
	// ReasonTimeout: the exchange was not finished in time.
	ReasonTimeout Reason = 7
	// ReasonBusy: too many others are asking; trying again later may succeed.
	ReasonBusy Reason = 8
	// ReasonChannel: the connection is not one that evidence can be bound to.
	ReasonChannel Reason = 9
	// ReasonClosed: the connection ended, or broke, within the exchange.
	ReasonClosed Reason = 10
	// ReasonIssue: the prover could not make evidence or answer a challenge.
	ReasonIssue Reason = 11
	// ReasonInternal: the verifier could not do its work; the evidence was not judged.
	ReasonInternal Reason = 12
)

// Reasons of the verdict.
const (
	// ReasonTechnology: the policy does not allow this technology.
	ReasonTechnology Reason = 32
	// ReasonBinding: made for another binding: relayed, replayed or reflected.
	ReasonBinding Reason = 33
	// ReasonSignature: a signature that does not verify.
	ReasonSignature Reason = 34
	// ReasonScheme: signed by another scheme than the technology's.
	ReasonScheme Reason = 35
	// ReasonKey: the signing key is not of the kind that proves something.
	ReasonKey Reason = 36
	// ReasonStructure: signed, but not the structure that it should be.
	ReasonStructure Reason = 37
	// ReasonSelection: quoted, but not over the registers that must be quoted.
	ReasonSelection Reason = 38
	// ReasonUnselected: a register value that the signature does not cover.
	ReasonUnselected Reason = 39
	// ReasonDigest: register values that are not the signed ones.
	ReasonDigest Reason = 40
	// ReasonClock: the device's clock or counters are not those of a fresh boot.
	ReasonClock Reason = 41
	// ReasonIdentity: the device is endorsed by nobody whom the policy trusts.
	ReasonIdentity Reason = 42
	// ReasonChallengeMissing: the prover could not be challenged.
	ReasonChallengeMissing Reason = 43
	// ReasonChallenge: the prover failed the challenge.
	ReasonChallenge Reason = 44
	// ReasonEventLog: an event log that does not lead to the quoted registers.
	ReasonEventLog Reason = 45
	// ReasonMeasurements: booted something that the policy does not accept.
	ReasonMeasurements Reason = 46
	// ReasonExpired: booted something that the policy no longer accepts.
	ReasonExpired Reason = 47
	// ReasonDebug: the machine can be debugged from outside.
	ReasonDebug Reason = 48
	// ReasonTCB: a firmware or microcode version below the policy's floor.
	ReasonTCB Reason = 49
	// ReasonPolicy: the policy itself says too little to judge by.
	ReasonPolicy Reason = 50
)

var reasonNames = map[Reason]string{
	ReasonMalformed:        "malformed",
	ReasonTooLarge:         "too-large",
	ReasonVersion:          "version",
	ReasonUnexpected:       "unexpected-message",
	ReasonRole:             "role",
	ReasonMode:             "mode",
	ReasonTimeout:          "timeout",
	ReasonBusy:             "busy",
	ReasonChannel:          "channel",
	ReasonClosed:           "closed",
	ReasonIssue:            "issue",
	ReasonInternal:         "internal",
	ReasonTechnology:       "technology",
	ReasonBinding:          "binding",
	ReasonSignature:        "signature",
	ReasonScheme:           "scheme",
	ReasonKey:              "key",
	ReasonStructure:        "structure",
	ReasonSelection:        "selection",
	ReasonUnselected:       "unselected-register",
	ReasonDigest:           "register-digest",
	ReasonClock:            "clock",
	ReasonIdentity:         "identity",
	ReasonChallengeMissing: "challenge-missing",
	ReasonChallenge:        "challenge",
	ReasonEventLog:         "event-log",
	ReasonMeasurements:     "measurements",
	ReasonExpired:          "expired",
	ReasonDebug:            "debug",
	ReasonTCB:              "tcb",
	ReasonPolicy:           "policy",
}

// String is the reason's name, stable for programs.
func (r Reason) String() string {
	if s, ok := reasonNames[r]; ok {
		return s
	}
	return fmt.Sprintf("reason-%d", uint16(r))
}

// MarshalText implements encoding.TextMarshaler with the reason's name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Error is a refusal.
type Error struct {
	Reason Reason
	// Err says what happened, for people. It holds no secret, and no text from
	// the peer but what was made printable.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%v: %v", e.Reason, e.Err) }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// Refuse makes an *Error; format and args are those of fmt.Errorf.
func Refuse(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// ReasonOf is the reason in err's chain, ReasonInternal if it has none and 0
// for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return 0
	}
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ReasonInternal
}
