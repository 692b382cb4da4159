// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/keyservice"
	"github.com/constellation-os/constellation/services/audit"
	"github.com/constellation-os/constellation/services/limit"
)

// Authenticator says whose token it is. Before it does work for a token that it
// does not know yet, it calls mayReview, whose error ends it.
type Authenticator interface {
	Authenticate(ctx context.Context, token string, mayReview func() error) (*Identity, error)
}

// Options of a [Server]; all are needed.
type Options struct {
	Source        keys.Source
	Authenticator Authenticator
	Policy        *Policy
	Limits        Limits
	Metrics       *Metrics
	// Audit gets one record for each request.
	Audit *slog.Logger
}

// Server implements the gRPC service.
type Server struct {
	api.UnimplementedKeyServiceServer
	Options
	callers   *limit.Rates
	addresses *limit.Rates
	log       *audit.Log
}

// NewServer makes one.
func NewServer(o Options) *Server {
	return &Server{
		Options:   o,
		callers:   limit.NewRates(o.Limits.CallerRate, o.Limits.CallerBurst),
		addresses: limit.NewRates(o.Limits.ReviewRate, o.Limits.ReviewBurst),
		log:       audit.New(o.Audit),
	}
}

// GetDataKey implements the service.
func (s *Server) GetDataKey(ctx context.Context, req *api.GetDataKeyRequest) (*api.GetDataKeyResponse, error) {
	began := time.Now()
	caller, key, err := s.answer(ctx, req)
	took := time.Since(began)
	s.Metrics.request(req.GetPurpose(), reasonOf(err), took)
	s.audit(ctx, req, caller, key, err, took)
	if err != nil {
		return nil, statusOf(err)
	}
	defer key.Secret.Wipe()
	return &api.GetDataKeyResponse{Key: key.Secret.Copy(), Version: uint32(key.Version)}, nil
}

// answer decides. The caller is nil if it is not known.
func (s *Server) answer(ctx context.Context, req *api.GetDataKeyRequest) (*Identity, *keys.DataKey, error) {
	token, err := bearerToken(ctx)
	if err != nil {
		return nil, nil, err
	}
	caller, err := s.Authenticator.Authenticate(ctx, token, func() error {
		if !s.addresses.Allow(address(ctx)) {
			return refuse(ReasonRate, "too many unknown tokens from this address")
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if !s.callers.Allow(caller.String()) {
		return caller, nil, refuse(ReasonRate, "more than %g requests in a second", s.Limits.CallerRate)
	}
	purpose, err := keys.ParsePurpose(req.GetPurpose())
	if err != nil {
		return caller, nil, err
	}
	if !s.Policy.Allows(caller, purpose) {
		return caller, nil, refuse(ReasonNotGranted, "%v may not ask for %s", caller, purpose)
	}
	length := int(min(req.GetLength(), keys.MaxLength+1))
	if err := keys.Check(purpose, req.GetId(), length); err != nil {
		return caller, nil, err
	}
	key, err := s.Source.DataKey(ctx, purpose, req.GetId(), length, keys.Version(req.GetVersion()))
	return caller, key, err
}

// audit writes what was decided, and never what the key or the token is.
func (s *Server) audit(ctx context.Context, req *api.GetDataKeyRequest, caller *Identity, key *keys.DataKey, err error, took time.Duration) {
	attributes := []slog.Attr{
		slog.String("address", address(ctx)),
		slog.String("purpose", clip(req.GetPurpose())), slog.String("id", clip(req.GetId())),
		slog.Uint64("length", uint64(req.GetLength())), slog.Uint64("version", uint64(req.GetVersion())),
		slog.Duration("took", took),
	}
	if caller != nil {
		attributes = append(attributes, slog.String("caller", caller.String()), slog.String("pod", caller.Pod))
	}
	if err != nil {
		stranger := caller == nil || reasonOf(err) == ReasonRate
		s.log.Refused(ctx, "data key", address(ctx), stranger, string(reasonOf(err)), err, attributes...)
		return
	}
	s.log.Granted(ctx, "data key", append(attributes, slog.Uint64("granted_version", uint64(key.Version)))...)
}

// clip bounds what a stranger can write into the log.
func clip(s string) string {
	if len(s) > keys.MaxIDLength {
		return s[:keys.MaxIDLength] + "…"
	}
	return s
}

func bearerToken(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", refuse(ReasonNoToken, "%d authorization headers", len(values))
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", refuse(ReasonNoToken, "the authorization header holds no bearer token")
	}
	return token, nil
}

// address is the caller's, without its port.
func address(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	return limit.Host(p.Addr)
}
