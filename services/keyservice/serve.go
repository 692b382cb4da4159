// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	api "github.com/constellation-os/constellation/services/api/keyservice"
	"github.com/constellation-os/constellation/services/limit"
	"github.com/constellation-os/constellation/services/probe"
	"github.com/constellation-os/constellation/services/secretcodec"
)

// Limits of a connection.
const (
	maxRequest     = 4 << 10
	maxHeaders     = 16 << 10
	maxStreams     = 128
	handshakeTime  = 10 * time.Second
	idleTime       = 15 * time.Minute
	shutdownTime   = 20 * time.Second
	healthInterval = 5 * time.Second
	shares         = 8 // one address has an eighth of the connections
)

// Service is a KeyService that listens.
type Service struct {
	source mode.Source
	grpc   *grpc.Server
	http   *http.Server
	ready  atomic.Bool

	grpcListener, httpListener net.Listener
}

// Listen opens everything that the configuration names. Serve answers then.
func Listen(ctx context.Context, c *Config, b managed.Backends, audit *slog.Logger) (*Service, error) {
	policy, err := NewPolicy(c.Grants)
	if err != nil {
		return nil, err
	}
	cert, err := newCertificate(c.Certificate, c.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	kube, err := kubeclient.Config(c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("the Kubernetes API: %w", err)
	}
	reviewer, err := NewReviewer(kube, c.Audience)
	if err != nil {
		return nil, err
	}
	metrics := NewMetrics()
	source, err := mode.Open(ctx, &c.Config, b, metrics.Observe)
	if err != nil {
		return nil, err
	}
	s, err := listen(c, cert, Options{
		Source: source, Authenticator: reviewer, Policy: policy, Limits: c.Limits, Metrics: metrics, Audit: audit,
	}, source)
	if err != nil {
		source.Close()
		return nil, err
	}
	return s, nil
}

func listen(c *Config, cert *certificate, o Options, source mode.Source) (*Service, error) {
	s := &Service{source: source, grpc: newGRPC(cert)}
	api.RegisterKeyServiceServer(s.grpc, NewServer(o))
	s.http = probe.NewServer(s.unready, o.Metrics.Handler())
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, err
	}
	s.grpcListener = limit.Share(netutil.LimitListener(listener, c.Limits.Connections), c.Limits.Connections/shares)
	if s.httpListener, err = probe.Listen(c.HTTP); err != nil {
		s.grpcListener.Close()
		return nil, err
	}
	return s, nil
}

func newGRPC(cert *certificate) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert.get})),
		grpc.ForceServerCodecV2(secretcodec.New(wipe)),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, Time: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Messages are small; there may be many connections.
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
	)
}

// wipe overwrites the key of a response that was encoded.
func wipe(message any) {
	if response, ok := message.(*api.GetDataKeyResponse); ok {
		clear(response.Key)
	}
}

// Address is where the gRPC service listens, HTTPAddress where health and metrics are.
func (s *Service) Address() string { return s.grpcListener.Addr().String() }

// HTTPAddress is where health and metrics are.
func (s *Service) HTTPAddress() string { return s.httpListener.Addr().String() }

// Serve answers until the context ends, then finishes what is under way, for at
// most 20 seconds, and wipes the keys. It returns nil for an orderly end.
func (s *Service) Serve(ctx context.Context) error {
	defer s.source.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	go func() { failed <- s.grpc.Serve(s.grpcListener) }()
	go func() { failed <- s.http.Serve(s.httpListener) }()
	watched := make(chan struct{})
	go func() {
		s.watch(ctx)
		close(watched)
	}()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	cancel()
	<-watched
	s.ready.Store(false)
	s.stop()
	return err
}

func (s *Service) stop() {
	timer := time.AfterFunc(shutdownTime, s.grpc.Stop)
	s.grpc.GracefulStop()
	timer.Stop()
	s.http.Close()
}

// unready says that keys cannot be had.
func (s *Service) unready() error {
	if !s.ready.Load() {
		return errors.New("not ready")
	}
	return nil
}

// watch keeps readiness up to date, so that asking for it costs a KMS nothing.
func (s *Service) watch(ctx context.Context) {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	was := errors.New("not asked yet")
	for {
		err := s.source.Health(ctx)
		if ctx.Err() != nil {
			return
		}
		s.ready.Store(err == nil)
		if (err == nil) != (was == nil) {
			slog.LogAttrs(ctx, level(err), "readiness", slog.Bool("ready", err == nil), slog.Any("error", err))
		}
		was = err
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func level(err error) slog.Level {
	if err != nil {
		return slog.LevelError
	}
	return slog.LevelInfo
}
