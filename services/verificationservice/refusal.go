// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"errors"
	"math"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// codesOf are the statuses of the reasons that the service refuses for, by gRPC and HTTP.
var codesOf = map[attestation.Reason]struct {
	grpc codes.Code
	http int
}{
	attestation.ReasonMalformed: {codes.InvalidArgument, http.StatusBadRequest},
	attestation.ReasonBinding:   {codes.InvalidArgument, http.StatusBadRequest},
	attestation.ReasonChallenge: {codes.InvalidArgument, http.StatusBadRequest},
	attestation.ReasonTooLarge:  {codes.InvalidArgument, http.StatusRequestEntityTooLarge},
	attestation.ReasonBusy:      {codes.ResourceExhausted, http.StatusTooManyRequests},
	attestation.ReasonTimeout:   {codes.Unavailable, http.StatusServiceUnavailable},
	attestation.ReasonIssue:     {codes.Internal, http.StatusInternalServerError},
}

// Texts for what goes on behind the service: the log has more.
var publicTexts = map[attestation.Reason]string{
	attestation.ReasonChallenge: "this node's TPM cannot decrypt the challenge: it was made for other keys",
	attestation.ReasonTimeout:   "the TPM did not answer in time",
	attestation.ReasonIssue:     "the node cannot make evidence: VerificationService's log says why",
}

// reasonOf is one of codesOf.
func reasonOf(err error) attestation.Reason {
	reason := attestation.ReasonOf(err)
	if _, known := codesOf[reason]; !known {
		return attestation.ReasonIssue
	}
	return reason
}

// refusalOf is what a caller is told.
func refusalOf(err error) (attestation.Reason, api.HTTPRefusal) {
	reason := reasonOf(err)
	r := api.HTTPRefusal{Reason: reason.String(), Detail: publicTexts[reason]}
	if refusal := (*attestation.Error)(nil); r.Detail == "" && errors.As(err, &refusal) {
		r.Detail = refusal.Err.Error()
	}
	if b := (*busy)(nil); errors.As(err, &b) {
		r.RetryAfter = uint32(math.Ceil(b.after.Seconds()))
	}
	return reason, r
}

// statusOf is what a caller by gRPC is told.
func statusOf(err error) error {
	reason, r := refusalOf(err)
	s := status.New(codesOf[reason].grpc, r.Detail)
	detailed, err := s.WithDetails(&api.Refusal{Reason: r.Reason, RetryAfterSeconds: r.RetryAfter})
	if err != nil {
		return s.Err()
	}
	return detailed.Err()
}
