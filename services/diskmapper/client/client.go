// SPDX-License-Identifier: Apache-2.0

// Package client opens the state disk over the diskmapper's socket, for the services of a node that hold its key.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

// Socket is where the service listens.
const Socket = "/run/diskmapper/diskmapper.sock"

// Dial connects to the service. The connection does not leave the node, and the socket is root's.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Open opens the disk, and formats it before if format is not nil. The witness judges the disk's generation; it may be
// [disk.Unwitnessed]. Errors carry a Problem: see [ProblemOf].
func Open(ctx context.Context, conn grpc.ClientConnInterface, key []byte, format *diskmapper.Format, w disk.Witness) (*diskmapper.Opened, error) {
	ctx, leave := context.WithCancel(ctx) // which ends a call that is given up
	defer leave()
	stream, err := diskmapper.NewDiskMapperClient(conn).Open(ctx)
	if err != nil {
		return nil, err
	}
	start := &diskmapper.Start{Key: key, Format: format, Unwitnessed: w == disk.Unwitnessed()}
	if err := send(stream, &diskmapper.OpenRequest{Message: &diskmapper.OpenRequest_Start{Start: start}}); err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		switch message := response.Message.(type) {
		case *diskmapper.OpenResponse_Opened:
			return message.Opened, nil
		case *diskmapper.OpenResponse_Step:
			verdict, err := judge(ctx, w, message.Step)
			if err != nil {
				return nil, err
			}
			if err := send(stream, &diskmapper.OpenRequest{Message: &diskmapper.OpenRequest_Verdict{Verdict: verdict}}); err != nil {
				return nil, err
			}
		default:
			return nil, errors.New("the diskmapper sent a message of unknown kind")
		}
	}
}

// send sends a request. If the service has ended the call, the error is the service's, which knows why.
func send(stream grpc.BidiStreamingClient[diskmapper.OpenRequest, diskmapper.OpenResponse], request *diskmapper.OpenRequest) error {
	err := stream.Send(request)
	if errors.Is(err, io.EOF) {
		_, err = stream.Recv()
	}
	return err
}

// judge asks the witness. If it cannot say, the disk stays closed.
func judge(ctx context.Context, w disk.Witness, step *diskmapper.Step) (*diskmapper.Verdict, error) {
	err := w.Advance(ctx, step.GetUuid(), generation(step.GetFrom()), generation(step.GetTo()))
	var rollback *disk.RollbackError
	switch {
	case errors.As(err, &rollback):
		return &diskmapper.Verdict{Known: &diskmapper.Generation{Number: rollback.Known.Number, Id: rollback.Known.ID}}, nil
	case err != nil:
		return nil, fmt.Errorf("have the disk's generation judged: %w", err)
	}
	return &diskmapper.Verdict{Accepted: true}, nil
}

func generation(g *diskmapper.Generation) disk.Generation {
	return disk.Generation{Number: g.GetNumber(), ID: g.GetId()}
}

// ProblemOf returns what an error of the service says, or nil.
func ProblemOf(err error) *diskmapper.Problem {
	for _, detail := range status.Convert(err).Details() {
		if problem, ok := detail.(*diskmapper.Problem); ok {
			return problem
		}
	}
	return nil
}
