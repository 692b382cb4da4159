// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

// scripted is a service whose Open is the test's.
type scripted struct {
	diskmapper.UnimplementedDiskMapperServer
	open func(grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) error
}

func (s *scripted) Open(stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) error {
	return s.open(stream)
}

func dial(t *testing.T, s *scripted) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	diskmapper.RegisterDiskMapperServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// witness is a function as a witness.
type witness func(ctx context.Context) error

func (w witness) Advance(ctx context.Context, _ string, _, _ disk.Generation) error { return w(ctx) }

// TestOpenSaysWhyTheServiceEndedTheCall: while the witness is asked the service gives up.
func TestOpenSaysWhyTheServiceEndedTheCall(t *testing.T) {
	conn := dial(t, &scripted{open: func(stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&diskmapper.OpenResponse{Message: &diskmapper.OpenResponse_Step{Step: &diskmapper.Step{}}}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "the disk is on fire")
	}})
	_, err := Open(t.Context(), conn, make([]byte, disk.KeySize), nil, witness(func(ctx context.Context) error {
		// Until the client's side knows that the call has ended.
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
		return nil
	}))
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the disk is on fire" {
		t.Errorf("got %v", err)
	}
}

// TestOpenEndsTheCallWhenTheWitnessCannotSay: the service does not wait for a verdict that will not come.
func TestOpenEndsTheCallWhenTheWitnessCannotSay(t *testing.T) {
	ended := make(chan error, 1)
	conn := dial(t, &scripted{open: func(stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&diskmapper.OpenResponse{Message: &diskmapper.OpenResponse_Step{Step: &diskmapper.Step{}}}); err != nil {
			return err
		}
		_, err := stream.Recv()
		ended <- err
		return err
	}})
	silent := errors.New("nobody answers")
	_, err := Open(t.Context(), conn, make([]byte, disk.KeySize), nil, witness(func(context.Context) error { return silent }))
	if !errors.Is(err, silent) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-ended:
		if status.Code(err) != codes.Canceled {
			t.Errorf("the service's call ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the service still waits")
	}
}
