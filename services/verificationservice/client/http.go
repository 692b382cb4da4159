// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	"github.com/constellation-os/constellation/measurements/strictjson"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// Limits of what a service may answer, in bytes.
const (
	maxRefusal  = 4 << 10
	maxResponse = 2 * attestation.MaxChallengeSize
)

// overHTTP asks by HTTP.
type overHTTP struct {
	base   *url.URL
	client *http.Client
}

func newHTTP(base *url.URL, h *http.Client) *overHTTP {
	if h == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableCompression = true
		h = &http.Client{Transport: t}
	}
	mine := *h
	// Wherever a service might send its callers, the service is not there.
	mine.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &overHTTP{base, &mine}
}

func (s *overHTTP) close() error {
	s.client.CloseIdleConnections()
	return nil
}

func (s *overHTTP) evidence(ctx context.Context, nonce []byte) (*attestation.Evidence, error) {
	data, err := s.post(ctx, s.base.JoinPath(api.EvidencePath), hex.EncodeToString(nonce), evidencejson.MaxSize)
	if err != nil {
		return nil, err
	}
	return evidencejson.Parse(data)
}

func (s *overHTTP) answer(ctx context.Context, nonce, challenge []byte) ([]byte, error) {
	u := s.base.JoinPath(api.ResponsePath)
	u.RawQuery = "nonce=" + hex.EncodeToString(nonce)
	line, err := s.post(ctx, u, base64.StdEncoding.EncodeToString(challenge), maxResponse)
	if err != nil {
		return nil, err
	}
	answer, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(line)))
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "the answer is not one line of base64")
	}
	return answer, nil
}

// post returns at most limit bytes of an answer.
func (s *overHTTP) post(ctx context.Context, u *url.URL, text string, limit int64) ([]byte, error) {
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, u.String(), strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, ended(ctx, connected.Load(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		limit = maxRefusal
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, ended(ctx, true, err)
	case int64(len(data)) > limit && resp.StatusCode == http.StatusOK:
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "an answer of more than %d bytes", limit)
	case resp.StatusCode != http.StatusOK:
		return nil, failure(resp.StatusCode, data)
	}
	return data, nil
}

// failure tells a service's refusal from what somebody else says on the way to it.
func failure(code int, data []byte) error {
	var r api.HTTPRefusal
	if len(data) <= maxRefusal && strictjson.Decode(data, &r) == nil {
		return refused(r.Reason, r.Detail, r.RetryAfter)
	}
	switch code {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%w: who answers on the way to it says %d: %s", ErrUnreachable, code, clip(string(data)))
	}
	return attestation.Refuse(attestation.ReasonMalformed, "what answers is no VerificationService: it says %d: %s", code, clip(string(data)))
}
