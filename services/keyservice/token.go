// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/kubeclient"
)

// Limits of tokens and of what is remembered of them.
const (
	maxToken     = 8 << 10
	maxVerdicts  = 4096
	maxReviews   = 32 // under way at once
	reviewTime   = 5 * time.Second
	acceptedLife = 30 * time.Second
	refusedLife  = 5 * time.Second
)

const podNameKey = "authentication.kubernetes.io/pod-name"

// Reviewer finds out whose token it is by asking the API server (TokenReview). It
// remembers a verdict for 30 seconds, so a token that was revoked is accepted for
// that long at most.
type Reviewer struct {
	client   rest.Interface
	audience string
	slots    chan struct{}
	flight   singleflight.Group

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]verdict
}

type verdict struct {
	identity *Identity
	err      error
	expires  time.Time
}

// NewReviewer makes one that accepts tokens for an audience.
func NewReviewer(config *rest.Config, audience string) (*Reviewer, error) {
	if audience == "" {
		return nil, errors.New("keyservice: an audience is needed, or tokens for anybody would be accepted")
	}
	client, err := kubeclient.New(config, authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &Reviewer{
		client: client, audience: audience,
		slots: make(chan struct{}, maxReviews), verdicts: map[[sha256.Size]byte]verdict{},
	}, nil
}

// Authenticate implements [Authenticator].
func (r *Reviewer) Authenticate(ctx context.Context, token string, mayReview func() error) (*Identity, error) {
	expires, err := r.look(token, time.Now())
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(token))
	if v, ok := r.remembered(digest); ok {
		return v.identity, v.err
	}
	if err := mayReview(); err != nil {
		return nil, err
	}
	done := r.flight.DoChan(string(digest[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTime)
		defer cancel()
		v := r.review(ctx, token)
		r.remember(digest, v, expires)
		return v, nil
	})
	select {
	case got := <-done:
		v := got.Val.(verdict)
		return v.identity, v.err
	case <-ctx.Done():
		return nil, refuse(ReasonReview, "the caller did not wait: %w", ctx.Err())
	}
}

// claims are what a token says of itself. They are not verified, and only ever
// lead to a refusal, which spares the API server the question.
type claims struct {
	Audience audiences `json:"aud"`
	Expires  float64   `json:"exp"`
}

type audiences []string

// UnmarshalJSON accepts one string or several (RFC 7519, section 4.1.3).
func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// look refuses what cannot be a token for us, and says when it expires.
func (r *Reviewer) look(token string, now time.Time) (expires time.Time, err error) {
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return expires, refuse(ReasonToken, "not a JSON web token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return expires, refuse(ReasonToken, "not a JSON web token")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return expires, refuse(ReasonToken, "not a JSON web token")
	}
	if !slices.Contains(c.Audience, r.audience) {
		return expires, refuse(ReasonAudience, "the token is for audiences %.200q", []string(c.Audience))
	}
	expires = time.Unix(int64(c.Expires), 0)
	if !now.Before(expires) {
		return expires, refuse(ReasonToken, "the token expired at %s", expires.UTC().Format(time.RFC3339))
	}
	return expires, nil
}

func (r *Reviewer) review(ctx context.Context, token string) verdict {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return verdict{err: refuse(ReasonReview, "%d reviews were under way already", maxReviews)}
	}
	in := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.audience}}}
	var out authenticationv1.TokenReview
	if err := r.client.Post().Resource("tokenreviews").Body(in).MaxRetries(0).Do(ctx).Into(&out); err != nil {
		return verdict{err: refuse(ReasonReview, "token review: %w", err)}
	}
	identity, err := r.identify(&out.Status)
	return verdict{identity: identity, err: err}
}

func (r *Reviewer) identify(s *authenticationv1.TokenReviewStatus) (*Identity, error) {
	if !s.Authenticated {
		return nil, refuse(ReasonToken, "the API server does not accept it: %.200s", s.Error)
	}
	// An API server that does not know of audiences answers without any.
	if !slices.Contains(s.Audiences, r.audience) {
		return nil, refuse(ReasonAudience, "the API server accepts it for audiences %.200q", s.Audiences)
	}
	rest, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	namespace, name, found := strings.Cut(rest, ":")
	if !ok || !found || namespace == "" || name == "" {
		return nil, refuse(ReasonIdentity, "user %.100q is not a service account", s.User.Username)
	}
	identity := &Identity{Namespace: namespace, Name: name}
	if pod := s.User.Extra[podNameKey]; len(pod) == 1 {
		identity.Pod = pod[0]
	}
	return identity, nil
}

func (r *Reviewer) remembered(digest [sha256.Size]byte) (verdict, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.verdicts[digest]
	return v, ok && time.Now().Before(v.expires)
}

// remember keeps what the API server said, not that it could not be asked.
func (r *Reviewer) remember(digest [sha256.Size]byte, v verdict, tokenExpires time.Time) {
	if reasonOf(v.err) == ReasonReview {
		return
	}
	now := time.Now()
	v.expires = now.Add(acceptedLife)
	if v.err != nil {
		v.expires = now.Add(refusedLife)
	}
	if tokenExpires.Before(v.expires) {
		v.expires = tokenExpires
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.verdicts) >= maxVerdicts {
		r.makeRoom(now)
	}
	r.verdicts[digest] = v
}

// makeRoom forgets what has expired, refusals, and if need be any one.
func (r *Reviewer) makeRoom(now time.Time) {
	for digest, v := range r.verdicts {
		if v.err != nil || !now.Before(v.expires) {
			delete(r.verdicts, digest)
		}
	}
	for digest := range r.verdicts {
		if len(r.verdicts) < maxVerdicts {
			return
		}
		delete(r.verdicts, digest)
	}
}
