// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// Limits of what is posted, in bytes.
const (
	maxNonceText     = 256
	maxChallengeText = 2 * attestation.MaxChallengeSize
)

// writeTime is how long a caller may take to read an answer.
const writeTime = 10 * time.Second

// handler is the service by HTTP (services/api/verificationservice).
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.EvidencePath, func(w http.ResponseWriter, r *http.Request) {
		data, err := s.evidence(w, r)
		s.answer(w, r, "evidence", "application/json", data, err)
	})
	mux.HandleFunc("POST "+api.ResponsePath, func(w http.ResponseWriter, r *http.Request) {
		data, err := s.response(w, r)
		s.answer(w, r, "answer", "text/plain; charset=utf-8", data, err)
	})
	return mux
}

func (s *server) evidence(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	text, err := readBody(w, r, maxNonceText)
	if err != nil {
		return nil, err
	}
	nonce, err := attestation.ParseNonce(text)
	if err != nil {
		return nil, err
	}
	e, err := s.prover.Evidence(r.Context(), remote(r), nonce)
	if err != nil {
		return nil, err
	}
	return evidencejson.Marshal(e)
}

func (s *server) response(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	nonce, err := attestation.ParseNonce(r.URL.Query().Get("nonce"))
	if err != nil {
		return nil, err
	}
	text, err := readBody(w, r, maxChallengeText)
	if err != nil {
		return nil, err
	}
	challenge, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "the challenge is not one line of base64")
	}
	answer, err := s.prover.Answer(r.Context(), remote(r), nonce, challenge)
	if err != nil {
		return nil, err
	}
	return append(base64.StdEncoding.AppendEncode(nil, answer), '\n'), nil
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) (string, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return "", attestation.Refuse(attestation.ReasonTooLarge, "more than %d bytes were posted", limit)
	case err != nil:
		return "", attestation.Refuse(attestation.ReasonMalformed, "what was posted could not be read")
	}
	return strings.TrimSpace(string(data)), nil
}

// answer writes data, or why there is none.
func (s *server) answer(w http.ResponseWriter, r *http.Request, operation, contentType string, data []byte, err error) {
	s.done(r.Context(), "http", operation, remote(r), err)
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	code := http.StatusOK
	if err != nil {
		reason, refusal := refusalOf(err)
		if refusal.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatUint(uint64(refusal.RetryAfter), 10))
		}
		code, contentType = codesOf[reason].http, "application/json"
		data, _ = json.Marshal(refusal) // strings and a number
		data = append(data, '\n')
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write(data)
}

// remote is where a request comes from. What proxies say in headers is anybody's word.
func remote(r *http.Request) net.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(ap)
}
