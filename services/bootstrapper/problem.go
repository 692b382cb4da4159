// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// reasons is the closed set of what a caller may act on.
var reasons = map[api.Problem_Reason]codes.Code{
	api.Problem_REASON_REQUEST:       codes.InvalidArgument,
	api.Problem_REASON_OWNER:         codes.PermissionDenied,
	api.Problem_REASON_OTHER_CLUSTER: codes.FailedPrecondition,
	api.Problem_REASON_BUSY:          codes.Unavailable,
	api.Problem_REASON_STEP:          codes.Aborted,
	api.Problem_REASON_NOT_A_NODE:    codes.FailedPrecondition,
}

// problem makes an error of a status with a Problem.
func problem(p *api.Problem, message string) error {
	s := status.New(reasons[p.Reason], message)
	if detailed, err := s.WithDetails(p); err == nil {
		s = detailed
	}
	return s.Err()
}

func requestError(format string, args ...any) error {
	return problem(&api.Problem{Reason: api.Problem_REASON_REQUEST, Advice: "Correct the request. Nothing has happened."}, fmt.Sprintf(format, args...))
}

func ownerError(advice, format string, args ...any) error {
	return problem(&api.Problem{Reason: api.Problem_REASON_OWNER, Advice: advice}, fmt.Sprintf(format, args...))
}

// ProblemOf returns what an error of the service says, or nil.
func ProblemOf(err error) *api.Problem {
	for _, detail := range status.Convert(err).Details() {
		if p, ok := detail.(*api.Problem); ok {
			return p
		}
	}
	return nil
}
