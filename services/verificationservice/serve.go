// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/constellation-os/constellation/attestation"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/limit"
)

// Limits of a connection.
const (
	maxRequest    = 2 * attestation.MaxChallengeSize
	maxHeaders    = 8 << 10
	maxStreams    = 8
	greetTime     = 10 * time.Second // for a request to be there, and for gRPC's handshake
	idleTime      = 10 * time.Second
	ageTime       = 30 * time.Second
	shutdownTime  = 20 * time.Second
	shares        = 8 // one address has an eighth of the connections
	adminShare    = 16
	callTime      = patience + operationTime
	responseLimit = callTime + writeTime
)

// Addresses are HOST:PORT for each part of the service.
type Addresses struct {
	GRPC, HTTP string
	// Admin is for health and metrics, which are the node's own matter.
	Admin string
}

// Service is one that listens.
type Service struct {
	prover      *prover
	grpc        *grpc.Server
	http, admin *http.Server

	grpcListener, httpListener, adminListener net.Listener
}

// Listen opens the ports of a service that proves by a responder, which it does not
// close. Serve answers then.
func Listen(a Addresses, r attestation.Responder, l Limits, logger *slog.Logger) (*Service, error) {
	if attestation.IsNil(r) || logger == nil {
		return nil, errors.New("verificationservice: it needs a device to prove by, and a log")
	}
	if l.Rate <= 0 || l.Burst <= 0 || l.AddressRate <= 0 || l.AddressBurst <= 0 || l.Connections <= 0 {
		return nil, errors.New("verificationservice: limits must be positive")
	}
	m := newMetrics()
	p := newProver(r, l, m.operation)
	srv := &server{prover: p, metrics: m, log: logger}
	s := &Service{prover: p, grpc: newGRPC(), http: newHTTP(srv.handler(), responseLimit)}
	s.admin = newHTTP(s.adminHandler(m), greetTime)
	api.RegisterVerificationServiceServer(s.grpc, srv)
	for _, part := range []struct {
		listener *net.Listener
		address  string
		all, one int
	}{
		{&s.grpcListener, a.GRPC, l.Connections, l.Connections / shares},
		{&s.httpListener, a.HTTP, l.Connections, l.Connections / shares},
		{&s.adminListener, a.Admin, shares * adminShare, adminShare},
	} {
		listener, err := net.Listen("tcp", part.address)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("verificationservice: %w", err)
		}
		*part.listener = limit.Share(netutil.LimitListener(listener, part.all), part.one)
	}
	return s, nil
}

// close closes the ports that Listen had opened.
func (s *Service) close() {
	for _, l := range []net.Listener{s.grpcListener, s.httpListener, s.adminListener} {
		if l != nil {
			l.Close()
		}
	}
}

// newGRPC makes a server that lets go of connections soon: a call may come on another one.
func newGRPC() *grpc.Server {
	return grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(greetTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, MaxConnectionAge: ageTime, MaxConnectionAgeGrace: responseLimit}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
	)
}

func newHTTP(h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler: h, ReadTimeout: greetTime, WriteTimeout: write, IdleTimeout: idleTime, MaxHeaderBytes: maxHeaders,
		ErrorLog: log.New(io.Discard, "", 0), // strangers' broken requests
	}
}

// adminHandler serves /healthz (the process answers), /readyz (the TPM does) and /metrics.
func (s *Service) adminHandler(m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.prover.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
	return mux
}

// Addresses are where the service listens.
func (s *Service) Addresses() Addresses {
	return Addresses{s.grpcListener.Addr().String(), s.httpListener.Addr().String(), s.adminListener.Addr().String()}
}

// Serve answers until the context ends, then finishes what is under way, for at most
// 20 seconds. It returns nil for an orderly end.
func (s *Service) Serve(ctx context.Context) error {
	failed := make(chan error, 3)
	go func() { failed <- s.grpc.Serve(s.grpcListener) }()
	go func() { failed <- s.http.Serve(s.httpListener) }()
	go func() { failed <- s.admin.Serve(s.adminListener) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	timer := time.AfterFunc(shutdownTime, s.grpc.Stop)
	defer timer.Stop()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.grpc.GracefulStop()
	s.admin.Close()
	return err
}
