// SPDX-License-Identifier: Apache-2.0

//go:build linux

package diskmapper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

// Server serves the API. It works on one call at a time; others wait a moment, and are then told to come again.
type Server struct {
	diskmapper.UnimplementedDiskMapperServer
	finder *Finder
	log    *slog.Logger
	turn   chan struct{} // holds one value: whoever takes it may work
}

// turnPatience is how long a call waits for its turn: longer than a look at the disk takes, shorter than formatting it.
const turnPatience = 5 * time.Second

// maxMessage is the largest message that is read, in bytes. The longest has two keys.
const maxMessage = 4096

// New makes a server for the disk that finder finds.
func New(finder *Finder, log *slog.Logger) *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(16))
	server := &Server{finder: finder, log: log, turn: make(chan struct{}, 1)}
	server.turn <- struct{}{}
	diskmapper.RegisterDiskMapperServer(s, server)
	return s
}

// begin waits for the call's turn, and keeps other calls away until done.
func (s *Server) begin(ctx context.Context) (done func(), err error) {
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case <-s.turn:
		return func() { s.turn <- struct{}{} }, nil
	case <-patience.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// beginOn is begin for a call that works on the disk, which may be slow to appear: nobody waits for that.
func (s *Server) beginOn(ctx context.Context) (path string, done func(), err error) {
	if path, err = s.finder.Find(ctx); err != nil {
		return "", nil, err
	}
	done, err = s.begin(ctx)
	return path, done, err
}

// withDevice runs do with the disk's device.
func (s *Server) withDevice(ctx context.Context, do func(disk.Device) error) error {
	path, done, err := s.beginOn(ctx)
	if err != nil {
		return err
	}
	defer done()
	device, err := disk.OpenDevice(path)
	if err != nil {
		return err
	}
	defer device.Close()
	return do(device)
}

// Inspect implements the API.
func (s *Server) Inspect(ctx context.Context, _ *diskmapper.InspectRequest) (*diskmapper.InspectResponse, error) {
	var in disk.Inspection
	err := s.withDevice(ctx, func(device disk.Device) (err error) {
		in, err = disk.Inspect(device)
		return err
	})
	if err != nil {
		return nil, fail(err)
	}
	kinds := map[disk.Kind]diskmapper.Kind{
		disk.Fresh: diskmapper.Kind_KIND_FRESH, disk.Ours: diskmapper.Kind_KIND_OURS,
		disk.Foreign: diskmapper.Kind_KIND_FOREIGN, disk.Damaged: diskmapper.Kind_KIND_DAMAGED,
	}
	return &diskmapper.InspectResponse{Kind: kinds[in.Kind], Uuid: in.UUID, Detail: in.Detail, Size: in.Size}, nil
}

// Open implements the API.
func (s *Server) Open(stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) error {
	volume, err := s.open(stream)
	if err != nil {
		s.log.Error("the state disk stays closed", "error", err)
		return fail(err)
	}
	s.log.Info("the state disk is open", "uuid", volume.UUID, "device", volume.Device, "bytes", volume.Size)
	return stream.Send(&diskmapper.OpenResponse{Message: &diskmapper.OpenResponse_Opened{Opened: fromVolume(volume)}})
}

func (s *Server) open(stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]) (*disk.Volume, error) {
	request, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) { // nothing is no Start either
		return nil, err
	}
	start := request.GetStart()
	if start == nil {
		return nil, requestError("the first message must be Start")
	}
	defer clear(start.Key)
	if err := checkKey("the key", start.Key); err != nil {
		return nil, err
	}
	if start.Format != nil && !luks2.ValidUUID(start.Format.Uuid) {
		return nil, requestError("the disk's name must be a UUID in lower case")
	}
	ctx := stream.Context()
	path, done, err := s.beginOn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if start.Format != nil {
		s.log.Info("formatting the state disk", "uuid", start.Format.Uuid, "device", path, "take", start.Format.Take)
		o := disk.FormatOptions{UUID: start.Format.Uuid, Key: start.Key, Take: start.Format.Take}
		if err := disk.Format(ctx, path, o); err != nil {
			return nil, err
		}
	}
	witness := disk.Unwitnessed()
	if !start.Unwitnessed {
		witness = &caller{stream}
	}
	return disk.Open(ctx, path, start.Key, witness)
}

// checkKey refuses what cannot be a key. A key of zeros is what is left of one that was cleared too early.
func checkKey(name string, key []byte) error {
	if len(key) != disk.KeySize {
		return requestError(name + " must have 32 bytes")
	}
	if bytes.Equal(key, make([]byte, disk.KeySize)) {
		return requestError(name + " is zero")
	}
	return nil
}

// caller is the caller as the disk's witness: it has the cluster judge.
type caller struct {
	stream grpc.BidiStreamingServer[diskmapper.OpenRequest, diskmapper.OpenResponse]
}

// Advance implements [disk.Witness].
func (c *caller) Advance(_ context.Context, uuid string, from, to disk.Generation) error {
	step := &diskmapper.Step{Uuid: uuid, From: fromGeneration(from), To: fromGeneration(to)}
	if err := c.stream.Send(&diskmapper.OpenResponse{Message: &diskmapper.OpenResponse_Step{Step: step}}); err != nil {
		return err
	}
	request, err := c.stream.Recv()
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
		return errNoVerdict
	}
	if err != nil {
		return err
	}
	verdict := request.GetVerdict()
	switch {
	case verdict == nil:
		return requestError("the answer to Step must be Verdict")
	case !verdict.Accepted:
		return &disk.RollbackError{UUID: uuid, Disk: from, Known: toGeneration(verdict.Known)}
	}
	return nil
}

// Rekey implements the API.
func (s *Server) Rekey(ctx context.Context, request *diskmapper.RekeyRequest) (*diskmapper.RekeyResponse, error) {
	defer clear(request.OldKey)
	defer clear(request.NewKey)
	if err := errors.Join(checkKey("the old key", request.OldKey), checkKey("the new key", request.NewKey)); err != nil {
		return nil, fail(err)
	}
	if bytes.Equal(request.OldKey, request.NewKey) {
		return nil, fail(requestError("the new key is the old one"))
	}
	err := s.withDevice(ctx, func(device disk.Device) error { return disk.Rekey(device, request.OldKey, request.NewKey) })
	if err != nil {
		s.log.Error("the state disk's key was not replaced", "error", err)
		return nil, fail(err)
	}
	s.log.Info("the state disk's key was replaced")
	return &diskmapper.RekeyResponse{}, nil
}

// Grow implements the API.
func (s *Server) Grow(ctx context.Context, _ *diskmapper.GrowRequest) (*diskmapper.GrowResponse, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, fail(err)
	}
	defer done()
	volume, err := disk.Current()
	if err != nil {
		return nil, fail(err)
	}
	if volume == nil {
		return nil, fail(errClosed)
	}
	if err := volume.Grow(ctx); err != nil {
		return nil, fail(err)
	}
	return &diskmapper.GrowResponse{}, nil
}

// Status implements the API.
func (s *Server) Status(context.Context, *diskmapper.StatusRequest) (*diskmapper.StatusResponse, error) {
	volume, err := disk.Current()
	if err != nil {
		return nil, fail(err)
	}
	if volume == nil {
		return &diskmapper.StatusResponse{}, nil
	}
	return &diskmapper.StatusResponse{Open: fromVolume(volume)}, nil
}

func fromVolume(v *disk.Volume) *diskmapper.Opened {
	return &diskmapper.Opened{Uuid: v.UUID, Device: v.Device, Size: v.Size}
}
