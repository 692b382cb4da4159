// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// Reason says why a request was refused, stable for programs. Besides these it is the
// name of a [bindings.Reason]. Machines that were refused by the channel have the name
// of an [attestation.Reason].
type Reason string

// Reasons.
const (
	// ReasonRequest: the request is not as it must be.
	ReasonRequest Reason = "request"
	// ReasonRate: the device, or its address, asks too often.
	ReasonRate Reason = "rate"
	// ReasonNotReady: the service does not know the cluster yet.
	ReasonNotReady Reason = "not-ready"
	// ReasonPolicyChanged: the machine was accepted by a policy that is not in force any more.
	ReasonPolicyChanged Reason = "policy-changed"
	// ReasonExpired: what the machine booted is no longer accepted.
	ReasonExpired Reason = "expired"
	// ReasonOtherCluster: the machine has locked itself to another cluster.
	ReasonOtherCluster Reason = "other-cluster"
	// ReasonNotListed: the policy grants the device nothing.
	ReasonNotListed Reason = "not-listed"
	// ReasonName: the device is granted another name, or has joined under another.
	ReasonName = Reason(bindings.ReasonName)
	// ReasonRole: the device is granted another role, or has joined with another.
	ReasonRole = Reason(bindings.ReasonRole)
	// ReasonCertificate: a certificate is requested that the node must not have.
	ReasonCertificate Reason = "certificate"
	// ReasonKeys: KeyService does not give the key.
	ReasonKeys Reason = "keys"
	// ReasonAPIServer: the API server cannot be reached, or does not do what it should.
	ReasonAPIServer Reason = "api-server"
	// ReasonRolledBack: the disk is an older copy.
	ReasonRolledBack Reason = "rolled-back"
	// ReasonCancelled: the caller did not wait.
	ReasonCancelled Reason = "cancelled"
	// ReasonInternal: everything else.
	ReasonInternal Reason = "internal"
)

// Error is a refusal.
type Error struct {
	Reason Reason
	// Err says what happened. It holds no secret.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

func refuse(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Errorf(format, args...)}
}

// keysError is KeyService's.
func keysError(err error) error { return &Error{ReasonKeys, fmt.Errorf("ask KeyService: %w", err)} }

// bindingsError gives an error of package bindings its reason.
func bindingsError(err error) error {
	var r *bindings.Refusal
	var old *disk.RollbackError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return &Error{Reason(r.Reason), r.Err}
	case errors.As(err, &old):
		return &Error{ReasonRolledBack, err}
	}
	return &Error{ReasonAPIServer, err}
}

// reasonOf is the refusal's reason; "" for nil.
func reasonOf(err error) Reason {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled):
		return ReasonCancelled
	case errors.As(err, &e):
		return e.Reason
	}
	return ReasonInternal
}

// answer is what a caller is told for a reason.
type answer struct {
	code   codes.Code
	advice string
	// hidden: what goes on behind the service is none of a caller's business.
	hidden string
}

var answers = map[Reason]answer{
	ReasonRequest:       {code: codes.InvalidArgument, advice: "correct the request"},
	ReasonRate:          {code: codes.ResourceExhausted, advice: "try again later"},
	ReasonNotReady:      {code: codes.Unavailable, advice: "try again later, or another control-plane node", hidden: "the service does not know the cluster yet"},
	ReasonPolicyChanged: {code: codes.Unavailable, advice: "connect again, to be judged by the policy in force"},
	ReasonExpired:       {code: codes.PermissionDenied, advice: "boot an image that the cluster's policy accepts, or prolong this one in the policy"},
	ReasonOtherCluster:  {code: codes.PermissionDenied, advice: "reboot the machine: it then belongs to no cluster"},
	ReasonNotListed:     {code: codes.PermissionDenied, advice: "add the device to the policy's inventory, or let unlisted workers in with first_come"},
	ReasonName:          {code: codes.PermissionDenied, advice: "ask with the granted name, or change the policy's inventory"},
	ReasonRole:          {code: codes.PermissionDenied, advice: "ask for the granted role, or change the policy's inventory; a node that has joined must be removed first"},
	ReasonCertificate:   {code: codes.InvalidArgument, advice: "request certificates for the granted name only"},
	ReasonKeys:          {code: codes.Unavailable, advice: "try again later, or another control-plane node; JoinService's log says more"},
	ReasonAPIServer:     {code: codes.Unavailable, advice: "try again later, or another control-plane node", hidden: "the cluster's API server cannot be used: JoinService's log says why"},
	ReasonRolledBack:    {code: codes.FailedPrecondition, advice: "put back the disk's newest copy; or, if it was restored on purpose, tell the cluster to accept its generation; or remove the node and join with a fresh disk"},
	ReasonCancelled:     {code: codes.Canceled, advice: "ask again"},
	ReasonInternal:      {code: codes.Internal, advice: "JoinService's log says more", hidden: "the ticket cannot be issued: JoinService's log says why"},

	Reason(bindings.ReasonNameTaken): {code: codes.AlreadyExists, advice: "choose another name, or remove the node that has it"},
	Reason(bindings.ReasonDiskTaken): {code: codes.PermissionDenied, advice: "the disk belongs to another machine: attach this machine's own, or a fresh one"},
	Reason(bindings.ReasonDisk):      {code: codes.FailedPrecondition, advice: "attach the node's own disk; if it is lost, remove the node and join again"},
	Reason(bindings.ReasonUnknown):   {code: codes.NotFound, advice: "ask for a join ticket, with a fresh disk"},
	Reason(bindings.ReasonTicket):    {code: codes.FailedPrecondition, advice: "ask for a new ticket"},

	Reason(attestation.ReasonMeasurements.String()): {code: codes.PermissionDenied, advice: "boot an image that the cluster's policy accepts"},
}

// temporary are the classes of a KeyService that may give the key later.
var temporary = map[keys.Class]bool{keys.ClassUnreachable: true, keys.ClassTimeout: true, keys.ClassThrottled: true, "rate": true, "review": true}

// statusOf is what the caller learns.
func statusOf(err error) error {
	reason := reasonOf(err)
	a, ok := answers[reason]
	if !ok {
		a = answers[ReasonInternal]
	}
	text := err.Error()
	if a.hidden != "" {
		text = string(reason) + ": " + a.hidden
	}
	code := a.code
	if reason == ReasonKeys {
		class := keys.ClassOf(err)
		text = fmt.Sprintf("%s: KeyService does not give the key: %s", reason, class)
		if !temporary[class] {
			code = codes.FailedPrecondition
		}
	}
	r := &api.Refusal{Reason: string(reason), Advice: a.advice}
	var old *disk.RollbackError
	if errors.As(err, &old) {
		r.Known = generation(old.Known)
	}
	st, detailErr := status.New(code, text).WithDetails(r)
	if detailErr != nil {
		return status.Error(code, text)
	}
	return st.Err()
}
