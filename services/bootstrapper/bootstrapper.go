// SPDX-License-Identifier: Apache-2.0

// Package bootstrapper is the first service of a node: it is what the owner of a
// machine that has booted talks to. It proves to whoever connects what booted, by
// the machine's TPM, on the attested channel (package attestation/atls), says what it
// waits for, and makes the machine a node of a cluster (package steps) when its owner
// says so. docs/bootstrapper.md is the manual.
//
// # Trust
//
// Callers are strangers. They are served only on the attested channel, which bounds
// how often they can make the TPM work. Status is for everybody; there is no secret in
// it. Init is for who has the init secret, whose hash the machine's surroundings know:
// the machine's host can thus choose the owner of a machine that belongs to nobody,
// and an owner sees by PCR 15 whether somebody was there before.
//
// Init's request holds the master secret. It goes to no file but one in memory, which
// the services that need it read, and into no message or log.
//
// # Not guaranteed
//
// A node asks nobody for proof of what they run, so far. What an RPC returns is the
// machine's own word, which is as good as what the caller found it to have booted.
package bootstrapper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Port is the TCP port that a node's bootstrapper listens on.
const Port = 9000

// Limits of what strangers can hold of a node.
const (
	maxConnections    = 1024
	maxStreams        = 2         // RPCs at once on a connection
	maxMessage        = 256 << 10 // bytes that an RPC may receive: half of it is for a policy
	idleTimeout       = 30 * time.Second
	pingsAtMost       = 10 * time.Second // how often a client may ask whether the connection lives
	connectionTimeout = time.Minute      // until a connection is attested; atls has tighter ones of its own
	farewell          = 5 * time.Second
)

// Options are what a Server needs.
type Options struct {
	// Image is what the node booted.
	Image Image
	// Owner knows the init secret's hash.
	Owner Owner
	// Journal is the node's.
	Journal *journal.Journal
	// Check judges what of a request this package does not: the component set, above all.
	Check func(*Request) error
	// Steps makes the steps for a request.
	Steps func(*Request) ([]steps.Step, error)
	// Recovery makes what is to be done for a node that comes back by its owner's hand.
	Recovery func(*Recovery) (*steps.Plan, error)
	// Disk looks at the state disk.
	Disk func(ctx context.Context) StateDisk
	// Kubeconfig returns the administrator's kubeconfig file after the last step;
	// fs.ErrNotExist where there is none.
	Kubeconfig func() ([]byte, error)
	// Logs returns the end of the node's journal, for who may send an Init.
	Logs func(ctx context.Context) []byte
	// Say tells people at the console.
	Say func(line string)
}

// Server implements the service of bootstrapper.proto.
type Server struct {
	api.UnimplementedBootstrapperServer
	options Options
	guard   *guard
	// work is what Inits' jobs run in: they outlive calls, not the server.
	work context.Context
	jobs sync.WaitGroup

	mu     sync.Mutex
	job    *job // the last one, or nil
	status *api.StatusResponse
}

// New makes the service of a node. Jobs end with ctx.
func New(ctx context.Context, o Options) *Server {
	s := &Server{options: o, guard: newGuard(o.Owner), work: ctx, status: &api.StatusResponse{
		State: api.State_STATE_WAITING,
		Image: &api.Image{Name: o.Image.Name, Version: o.Image.Version, Flavour: o.Image.Flavour},
	}}
	s.resume()
	return s
}

// Serve answers on listener until ctx is done, then lets calls and jobs end for a moment.
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
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsAtMost}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
	)
	api.RegisterBootstrapperServer(server, s)
	stopped := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(farewell, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	})
	defer stopped()
	defer s.finish()
	if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("bootstrapper: serve: %w", err)
	}
	return nil
}

// finish waits until the job that ctx has ended is over, for a moment.
func (s *Server) finish() {
	over := make(chan struct{})
	go func() {
		s.jobs.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(farewell):
	}
}
