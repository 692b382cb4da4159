// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// maxMessage is the most that a service may answer: the largest evidence, and its frame.
const maxMessage = attestation.MaxEvidenceSize + 64

// overGRPC asks by gRPC. The connection is not encrypted: nothing on it is secret, and
// what is on it needs no other proof.
type overGRPC struct {
	conn *grpc.ClientConn
	api  api.VerificationServiceClient
	// connected says whether there ever was a connection.
	connected atomic.Bool
}

func newGRPC(endpoint string) (*overGRPC, error) {
	if _, _, err := net.SplitHostPort(endpoint); err != nil {
		return nil, err
	}
	s := &overGRPC{}
	conn, err := grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())
	s.conn, s.api = conn, api.NewVerificationServiceClient(conn)
	return s, err
}

func (s *overGRPC) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err == nil {
		s.connected.Store(true)
	}
	return conn, err
}

func (s *overGRPC) close() error { return s.conn.Close() }

func (s *overGRPC) evidence(ctx context.Context, nonce []byte) (*attestation.Evidence, error) {
	r, err := s.api.GetEvidence(ctx, &api.GetEvidenceRequest{Nonce: nonce})
	if err != nil {
		return nil, s.failure(ctx, err)
	}
	return attestation.ParseEvidence(r.Evidence)
}

func (s *overGRPC) answer(ctx context.Context, nonce, challenge []byte) ([]byte, error) {
	r, err := s.api.AnswerChallenge(ctx, &api.AnswerChallengeRequest{Nonce: nonce, Challenge: challenge})
	if err != nil {
		return nil, s.failure(ctx, err)
	}
	if len(r.Response) > attestation.MaxChallengeSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "an answer of %d bytes, at most %d", len(r.Response), attestation.MaxChallengeSize)
	}
	return r.Response, nil
}

// failure tells what the service says from what happened to the connection.
func (s *overGRPC) failure(ctx context.Context, err error) error {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if r, ok := detail.(*api.Refusal); ok {
			return refused(r.Reason, st.Message(), r.RetryAfterSeconds)
		}
	}
	switch st.Code() {
	case codes.ResourceExhausted: // by this side: the service's own has details
		return attestation.Refuse(attestation.ReasonTooLarge, "an answer of more than %d bytes", maxMessage)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		text := strings.TrimPrefix(st.Message(), "connection error: desc = ")
		return ended(ctx, s.connected.Load(), errors.New(clip(text)))
	}
	return attestation.Refuse(attestation.ReasonMalformed, "what answers is no VerificationService: %s", clip(st.Message()))
}
