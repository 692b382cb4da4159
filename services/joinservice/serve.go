// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/kubernetes/servingcert"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
	"github.com/constellation-os/constellation/services/keyservice/client"
	"github.com/constellation-os/constellation/services/limit"
	"github.com/constellation-os/constellation/services/probe"
	"github.com/constellation-os/constellation/services/secretcodec"
)

// Limits of a connection. It outlives the formatting of a disk.
const (
	maxRequest       = 32 << 10 // two certificate requests, and some
	maxHeaders       = 16 << 10
	maxStreams       = 16
	handshakeTime    = time.Minute // the channel has tighter ones of its own
	idleTime         = 2 * time.Minute
	connectionTime   = 15 * time.Minute
	shutdownTime     = 20 * time.Second
	connectionShares = 8 // one address has an eighth of the connections
)

// Port is the TCP port that the service listens on, on each control-plane node.
const Port = 9444

// Attestation is how this machine proves itself, and how others are judged.
type Attestation struct {
	Issuer     attestation.Issuer
	Technology attestation.Technology
	Judge      Judge
}

// Service is a JoinService that listens.
type Service struct {
	server   *Server
	follower *follower
	events   *events
	kube     *rest.Config
	keys     *client.Client
	grpc     *grpc.Server
	http     *http.Server

	grpcListener, httpListener net.Listener
}

// Listen opens everything that the configuration names. Serve answers then.
func Listen(c *Config, a Attestation, audit *slog.Logger) (*Service, error) {
	kube, err := kubeclient.Config(c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("the Kubernetes API: %w", err)
	}
	keys, err := client.New(c.KeyService.config())
	if err != nil {
		return nil, fmt.Errorf("KeyService: %w", err)
	}
	s := &Service{kube: kube, keys: keys}
	if err := s.build(c, a, audit); err != nil {
		keys.Close()
		return nil, err
	}
	return s, nil
}

func (s *Service) build(c *Config, a Attestation, audit *slog.Logger) error {
	metrics := NewMetrics()
	policy := NewPolicy(a.Technology, a.Judge, nil)
	nodes, err := bindings.NewKubernetes(s.kube, bindings.Namespace)
	if err != nil {
		return err
	}
	settings, err := bindings.NewKubernetes(s.kube, parameters.Namespace)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if s.events, err = newEvents(s.kube, metrics, host); err != nil {
		return err
	}
	authority, err := c.authority()
	if err != nil {
		return err
	}
	s.follower = newFollower(settings, policy, metrics, s.events, audit)
	s.server, err = NewServer(Options{
		Policy: policy, Keys: s.keys, Bindings: bindings.New(nodes, nil), Authority: authority,
		Secrets: Secrets{PKI: c.PKI, MasterSecret: c.MasterSecret}, Cluster: s.follower.Cluster,
		Limits: c.Limits, Metrics: metrics, Events: s.events, Audit: audit,
	})
	if err != nil {
		return err
	}
	channel, err := atls.ServerMutual(a.Issuer, []attestation.Verifier{policy}, atls.Options{
		QuotesPerSecond: c.Limits.QuoteRate, QuoteBurst: c.Limits.QuoteBurst, Observe: s.server.Handshake,
	})
	if err != nil {
		return err
	}
	s.grpc = newGRPC(channel)
	api.RegisterJoinServiceServer(s.grpc, s.server)
	s.http = probe.NewServer(s.follower.ready, metrics.Handler())
	return s.listen(c)
}

func newGRPC(channel credentials.TransportCredentials) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(channel),
		grpc.ForceServerCodecV2(secretcodec.New(wipe)),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTime, MaxConnectionAge: connectionTime, MaxConnectionAgeGrace: requestTime, Time: time.Minute,
		}),
		// Messages are small; there may be many connections.
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
	)
}

func (s *Service) listen(c *Config) error {
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	s.grpcListener = limit.Share(netutil.LimitListener(listener, c.Limits.Connections), c.Limits.Connections/connectionShares)
	if s.httpListener, err = probe.Listen(c.HTTP); err != nil {
		s.grpcListener.Close()
		return err
	}
	return nil
}

// Address is where the gRPC service listens.
func (s *Service) Address() string { return s.grpcListener.Addr().String() }

// HTTPAddress is where health and metrics are.
func (s *Service) HTTPAddress() string { return s.httpListener.Addr().String() }

// Serve answers until the context ends, then finishes what is under way, for at most 20
// seconds, and wipes its secrets. It returns nil for an orderly end.
func (s *Service) Serve(ctx context.Context) error {
	defer s.keys.Close()
	defer s.server.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 3)
	go func() { failed <- s.grpc.Serve(s.grpcListener) }()
	go func() { failed <- s.http.Serve(s.httpListener) }()
	writing, endEvents := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { s.follower.run(ctx) })
	wg.Go(func() { s.events.run(writing) })
	wg.Go(func() {
		if err := servingcert.Run(ctx, s.kube, addresses(ctx, s.server.Bindings), slog.Default()); err != nil {
			failed <- err
		}
	})
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	cancel()
	timer := time.AfterFunc(shutdownTime, s.grpc.Stop)
	s.grpc.GracefulStop()
	timer.Stop()
	s.http.Close()
	endEvents()
	wg.Wait()
	return err
}
