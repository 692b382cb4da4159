// SPDX-License-Identifier: Apache-2.0

package diskmapper

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

// Errors that are the service's own.
var (
	errBusy   = errors.New("another call is at work on the disk: try again")
	errClosed = errors.New("the disk is not open")
	// errNoVerdict is of a caller that could not have the generation judged, or was told to stop.
	errNoVerdict = errors.New("the caller left without saying what the cluster knows of the disk's generation")
)

// requestError says that a request is not as it must be.
type requestError string

func (e requestError) Error() string { return string(e) }

// classes is the closed set of what a caller may act on.
var classes = []struct {
	err    error
	code   codes.Code
	reason diskmapper.Problem_Reason
}{
	{ErrNoDisk, codes.NotFound, diskmapper.Problem_REASON_NO_DISK},
	{ErrSeveralDisks, codes.NotFound, diskmapper.Problem_REASON_NO_DISK},
	{errBusy, codes.Unavailable, diskmapper.Problem_REASON_BUSY},
	{errClosed, codes.FailedPrecondition, diskmapper.Problem_REASON_CLOSED},
	{disk.ErrActive, codes.FailedPrecondition, diskmapper.Problem_REASON_OPEN},
	{disk.ErrNotOurs, codes.FailedPrecondition, diskmapper.Problem_REASON_FRESH},
	{disk.ErrHoldsSomething, codes.FailedPrecondition, diskmapper.Problem_REASON_HOLDS_SOMETHING},
	{disk.ErrTooSmall, codes.FailedPrecondition, diskmapper.Problem_REASON_TOO_SMALL},
	{errNoVerdict, codes.Canceled, diskmapper.Problem_REASON_UNSPECIFIED},
	{context.Canceled, codes.Canceled, diskmapper.Problem_REASON_UNSPECIFIED},
	{context.DeadlineExceeded, codes.DeadlineExceeded, diskmapper.Problem_REASON_UNSPECIFIED},
}

// fail turns an error into a status with a Problem. Errors of package disk hold neither keys nor the disk's content.
func fail(err error) error {
	if err == nil {
		return nil
	}
	if _, already := status.FromError(err); already {
		return err
	}
	code, problem := codes.Internal, &diskmapper.Problem{}
	var rollback *disk.RollbackError
	var request requestError
	switch {
	case errors.As(err, &rollback):
		code = codes.Aborted
		problem.Reason = diskmapper.Problem_REASON_ROLLED_BACK
		problem.Disk, problem.Known = fromGeneration(rollback.Disk), fromGeneration(rollback.Known)
	case luks2.ReasonOf(err) == luks2.ReasonUnauthentic:
		code = codes.PermissionDenied
		problem.Reason, problem.HeaderReason = diskmapper.Problem_REASON_HEADER, string(luks2.ReasonUnauthentic)
	case luks2.ReasonOf(err) != "":
		code = codes.DataLoss
		problem.Reason, problem.HeaderReason = diskmapper.Problem_REASON_HEADER, string(luks2.ReasonOf(err))
	case errors.As(err, &request):
		code = codes.InvalidArgument
		problem.Reason = diskmapper.Problem_REASON_REQUEST
	default:
		for _, class := range classes {
			if errors.Is(err, class.err) {
				code, problem.Reason = class.code, class.reason
				break
			}
		}
	}
	s := status.New(code, err.Error())
	if detailed, detailErr := s.WithDetails(problem); detailErr == nil {
		s = detailed
	}
	return s.Err()
}

func fromGeneration(g disk.Generation) *diskmapper.Generation {
	return &diskmapper.Generation{Number: g.Number, Id: g.ID}
}

func toGeneration(g *diskmapper.Generation) disk.Generation {
	return disk.Generation{Number: g.GetNumber(), ID: g.GetId()}
}
