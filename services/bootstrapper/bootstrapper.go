// SPDX-License-Identifier: Apache-2.0

// Package bootstrapper is the first service of a node: it is what the owner of a
// machine that has booted talks to. It proves to whoever connects what booted, by
// the machine's TPM, on the attested channel (package attestation/atls), and says
// what it waits for.
//
// # Trust
//
// Callers are strangers. They are served only on the attested channel, which bounds
// how often they can make the TPM work, and nothing here believes what they say.
// The proof is in the channel. What an RPC returns is the machine's own word, which
// is as good as what the caller found it to have booted.
//
// # Not guaranteed
//
// A node proves itself to everybody and asks nobody for proof, so far: it can do
// nothing but tell its status, and there is nothing secret in that.
package bootstrapper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Port is the TCP port that a node's bootstrapper listens on.
const Port = 9000

// Limits of what strangers can hold of a node.
const (
	maxConnections    = 1024
	maxStreams        = 16      // RPCs at once on a connection
	maxMessage        = 4 << 10 // bytes that an RPC may receive
	idleTimeout       = 30 * time.Second
	connectionTimeout = time.Minute // until a connection is attested; atls has tighter ones of its own
	farewell          = 5 * time.Second
)

// Server implements the service of bootstrapper.proto.
type Server struct {
	api.UnimplementedBootstrapperServer
	image Image
}

// New makes the service of a node that booted image.
func New(image Image) *Server { return &Server{image: image} }

// Status implements api.BootstrapperServer.
func (s *Server) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	return &api.StatusResponse{
		State: api.State_STATE_WAITING,
		Image: &api.Image{Name: s.image.Name, Version: s.image.Version, Flavour: s.image.Flavour},
	}, nil
}

// Serve answers on listener until ctx is done, then lets calls end for a moment.
// The credentials are those of an attested channel.
func (s *Server) Serve(ctx context.Context, listener net.Listener, channel credentials.TransportCredentials) error {
	if channel == nil || channel.Info().SecurityProtocol != "atls" {
		return errors.New("bootstrapper: callers are served on an attested channel only")
	}
	server := grpc.NewServer(
		grpc.Creds(channel),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
	)
	api.RegisterBootstrapperServer(server, s)
	stopped := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(farewell, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	})
	defer stopped()
	if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("bootstrapper: serve: %w", err)
	}
	return nil
}
