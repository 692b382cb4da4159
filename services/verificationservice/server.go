// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"log/slog"
	"net"

	"google.golang.org/grpc/peer"

	"github.com/constellation-os/constellation/attestation"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/limit"
)

// server is the service by gRPC.
type server struct {
	api.UnimplementedVerificationServiceServer
	prover  *prover
	metrics *metrics
	log     *slog.Logger
}

// GetEvidence implements the service.
func (s *server) GetEvidence(ctx context.Context, req *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
	from := caller(ctx)
	e, err := s.prover.Evidence(ctx, from, req.GetNonce())
	var data []byte
	if err == nil {
		data, err = e.Marshal()
	}
	s.done(ctx, "grpc", "evidence", from, err)
	if err != nil {
		return nil, statusOf(err)
	}
	return &api.GetEvidenceResponse{Evidence: data}, nil
}

// AnswerChallenge implements the service.
func (s *server) AnswerChallenge(ctx context.Context, req *api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
	from := caller(ctx)
	answer, err := s.prover.Answer(ctx, from, req.GetNonce(), req.GetChallenge())
	s.done(ctx, "grpc", "answer", from, err)
	if err != nil {
		return nil, statusOf(err)
	}
	return &api.AnswerChallengeResponse{Response: answer}, nil
}

// done counts a request, and logs it if the node is at fault. What strangers do wrong, or
// too often, is not worth a line: they could write any number of them.
func (s *server) done(ctx context.Context, transport, operation string, from net.Addr, err error) {
	reason := ""
	if err != nil {
		r := reasonOf(err)
		reason = r.String()
		if r == attestation.ReasonIssue || r == attestation.ReasonTimeout {
			s.log.LogAttrs(ctx, slog.LevelError, "nothing could be proven", slog.String("operation", operation),
				slog.String("address", host(from)), slog.String("error", err.Error()))
		}
	}
	s.metrics.requests.WithLabelValues(transport, operation, reason).Inc()
}

func caller(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return nil
}

// host is an address without its port.
func host(a net.Addr) string {
	if a == nil {
		return ""
	}
	return limit.Host(a)
}
