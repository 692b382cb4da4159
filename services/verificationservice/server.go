// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc/peer"

	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/audit"
)

// server is the service by gRPC.
type server struct {
	api.UnimplementedVerificationServiceServer
	prover  *prover
	metrics *metrics
	log     *audit.Log
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

// done counts a request, and logs it if it was refused. What is answered to anybody
// is not worth a line, which anybody could have written then.
func (s *server) done(ctx context.Context, transport, operation string, from net.Addr, err error) {
	reason := ""
	if err != nil {
		reason = reasonOf(err).String()
		s.log.Refused(ctx, operation, host(from), true, reason, err)
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
	if h, _, err := net.SplitHostPort(a.String()); err == nil {
		return strings.ToLower(h)
	}
	return a.String()
}
