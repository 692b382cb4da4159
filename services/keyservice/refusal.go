// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/keyservice"
)

// Reason says why a request was refused, stable for programs. Besides these it
// is the name of a [keys.Class].
type Reason string

// Reasons of authentication and authorisation.
const (
	// ReasonNoToken: the request has no bearer token, or more than one.
	ReasonNoToken Reason = "no-token"
	// ReasonToken: the API server does not accept the token, or it is no token at all.
	ReasonToken Reason = "token"
	// ReasonAudience: the token is for somebody else.
	ReasonAudience Reason = "audience"
	// ReasonIdentity: the token is good, but not of a service account.
	ReasonIdentity Reason = "identity"
	// ReasonNotGranted: the policy does not let this identity ask for this purpose.
	ReasonNotGranted Reason = "not-granted"
	// ReasonRate: the caller, or its address, asks too often.
	ReasonRate Reason = "rate"
	// ReasonReview: the API server could not be asked about the token.
	ReasonReview Reason = "review"
)

// Error is a refusal.
type Error struct {
	Reason Reason
	// Err says what happened, for the audit log.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

func refuse(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Errorf(format, args...)}
}

// reasonOf is the refusal's reason; "" for nil.
func reasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return Reason(keys.ClassOf(err))
}

var statusCodes = map[Reason]codes.Code{
	ReasonNoToken:    codes.Unauthenticated,
	ReasonToken:      codes.Unauthenticated,
	ReasonAudience:   codes.Unauthenticated,
	ReasonIdentity:   codes.PermissionDenied,
	ReasonNotGranted: codes.PermissionDenied,
	ReasonRate:       codes.ResourceExhausted,
	ReasonReview:     codes.Unavailable,

	Reason(keys.ClassInvalid):      codes.InvalidArgument,
	Reason(keys.ClassVersion):      codes.NotFound,
	Reason(keys.ClassMissing):      codes.NotFound,
	Reason(keys.ClassCorrupted):    codes.DataLoss,
	Reason(keys.ClassUnreachable):  codes.Unavailable,
	Reason(keys.ClassTimeout):      codes.Unavailable,
	Reason(keys.ClassThrottled):    codes.ResourceExhausted,
	Reason(keys.ClassNotPermitted): codes.FailedPrecondition,
	Reason(keys.ClassKeyMissing):   codes.FailedPrecondition,
	Reason(keys.ClassKeyDisabled):  codes.FailedPrecondition,
	Reason(keys.ClassWrongKey):     codes.FailedPrecondition,
}

// publicTexts are what a caller is told besides the reason, unless the text is
// about the caller's own request. What goes on behind the service is none of a
// caller's business: the audit log has it.
var publicTexts = map[Reason]string{
	ReasonNoToken:    "a token of a service account is needed: authorization: Bearer TOKEN",
	ReasonToken:      "the token is not accepted",
	ReasonAudience:   "the token is for another audience",
	ReasonIdentity:   "the token is not of a service account",
	ReasonNotGranted: "this service account may not ask for this purpose",
	ReasonRate:       "too many requests: try again later",
	ReasonReview:     "the token could not be checked: try again later",
}

// statusOf is what the caller learns.
func statusOf(err error) error {
	reason := reasonOf(err)
	code, ok := statusCodes[reason]
	if !ok {
		code = codes.Internal
	}
	text, ok := publicTexts[reason]
	switch {
	case ok:
	case code == codes.InvalidArgument || code == codes.NotFound:
		text = err.Error()
	default:
		text = "the key cannot be had: KeyService's log says why"
	}
	st, detailErr := status.New(code, text).WithDetails(&api.Refusal{Reason: string(reason)})
	if detailErr != nil {
		return status.Error(code, text)
	}
	return st.Err()
}
