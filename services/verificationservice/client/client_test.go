// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/verificationservice"
)

// unreachable stands for ErrUnreachable in tables.
const unreachable = attestation.Reason(999)

func reasonOf(err error) attestation.Reason {
	if errors.Is(err, ErrUnreachable) {
		return unreachable
	}
	return attestation.ReasonOf(err)
}

// verify asks an endpoint with a policy that trusts device, for at most a while.
func verify(t *testing.T, endpoint string, device *attestationtest.Device, limit time.Duration) (*attestation.Claims, error) {
	t.Helper()
	c, err := New(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	policy := attestationtest.Accept(device)
	policy.Rounds = 1
	return c.Verify(ctx, policy)
}

// listen answers each connection by f until the test ends.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f(conn)
		}
	}()
	return l.Addr().String()
}

func silent(t *testing.T) func(net.Conn) {
	return func(conn net.Conn) {
		<-t.Context().Done()
		conn.Close()
	}
}

// nobody is an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// liar implements the service by functions.
type liar struct {
	api.UnimplementedVerificationServiceServer
	evidence func(*api.GetEvidenceRequest) (*api.GetEvidenceResponse, error)
	answer   func(*api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error)
}

func (l *liar) GetEvidence(_ context.Context, r *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
	return l.evidence(r)
}

func (l *liar) AnswerChallenge(_ context.Context, r *api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
	return l.answer(r)
}

func serveGRPC(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func lying(t *testing.T, l *liar) string {
	return serveGRPC(t, func(s *grpc.Server) { api.RegisterVerificationServiceServer(s, l) })
}

// honest answers for a device as the service does.
func honest(t *testing.T, d *attestationtest.Device) *liar {
	binding := func(nonce []byte) attestation.Binding {
		b, err := attestation.NonceBinding(nonce)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	return &liar{
		evidence: func(r *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
			e, err := d.Issue(t.Context(), binding(r.Nonce))
			if err != nil {
				return nil, err
			}
			data, err := e.Marshal()
			return &api.GetEvidenceResponse{Evidence: data}, err
		},
		answer: func(r *api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
			answer, err := d.Respond(t.Context(), binding(r.Nonce), r.Challenge)
			return &api.AnswerChallengeResponse{Response: answer}, err
		},
	}
}

func refuse(t *testing.T, reason string, after uint32) error {
	t.Helper()
	s, err := status.New(codes.ResourceExhausted, "\x1b[31mno").WithDetails(&api.Refusal{Reason: reason, RetryAfterSeconds: after})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// TestVerify: with the service as it ships, by gRPC.
func TestVerify(t *testing.T) {
	device := attestationtest.NewDevice("image")
	any := "127.0.0.1:0"
	s, err := verificationservice.Listen(verificationservice.Addresses{GRPC: any, HTTP: any, Admin: any}, device, verificationservice.DefaultLimits(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	claims, err := verify(t, s.Addresses().GRPC, device, 10*time.Second)
	if err != nil || claims.Image != "image" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	_, err = verify(t, s.Addresses().GRPC, attestationtest.NewDevice("image"), 10*time.Second)
	if attestation.ReasonOf(err) != attestation.ReasonIdentity {
		t.Errorf("another device: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOverGRPC: whatever answers, the reason is exact. (V4, V12)
func TestOverGRPC(t *testing.T) {
	device := attestationtest.NewDevice("image")
	change := func(f func(*liar)) func(*testing.T) string {
		return func(t *testing.T) string {
			l := honest(t, device)
			f(l)
			return lying(t, l)
		}
	}
	says := func(data []byte) func(*testing.T) string {
		return change(func(l *liar) {
			l.evidence = func(*api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
				return &api.GetEvidenceResponse{Evidence: data}, nil
			}
		})
	}
	fails := func(err func(*testing.T) error) func(*testing.T) string {
		return func(t *testing.T) string {
			l := honest(t, device)
			l.evidence = func(*api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) { return nil, err(t) }
			return lying(t, l)
		}
	}
	old, err := honest(t, device).evidence(&api.GetEvidenceRequest{Nonce: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		server func(*testing.T) string
		want   attestation.Reason
		says   string
	}{
		{"nobody", nobody, unreachable, "connection refused"},
		{"silent", func(t *testing.T) string { return listen(t, silent(t)) }, attestation.ReasonTimeout, "the node did not answer in time"},
		{"hangs up", func(t *testing.T) string { return listen(t, func(c net.Conn) { c.Close() }) }, attestation.ReasonClosed, "ended before the answer did"},
		{"a web server", func(t *testing.T) string {
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return strings.TrimPrefix(s.URL, "http://")
		}, attestation.ReasonClosed, "ended before the answer did"},
		{"another service", func(t *testing.T) string { return serveGRPC(t, func(*grpc.Server) {}) }, attestation.ReasonMalformed, "is no VerificationService"},
		{"V4: replayed evidence", says(old.Evidence), attestation.ReasonBinding, "made for another binding"},
		{"truncated evidence", says(old.Evidence[:len(old.Evidence)/2]), attestation.ReasonMalformed, "cut short"},
		{"no evidence", says(nil), attestation.ReasonVersion, "version 0"},
		{"V12: oversized evidence", says(make([]byte, attestation.MaxEvidenceSize+1)), attestation.ReasonTooLarge, "at most 262144"},
		{"V12: an oversized message", says(make([]byte, 4*attestation.MaxEvidenceSize)), attestation.ReasonTooLarge, "an answer of more than"},
		{"V12: an oversized answer to the challenge", change(func(l *liar) {
			l.answer = func(*api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
				return &api.AnswerChallengeResponse{Response: make([]byte, attestation.MaxChallengeSize+1)}, nil
			}
		}), attestation.ReasonTooLarge, "an answer of 4097 bytes"},
		{"no answer to the challenge", change(func(l *liar) {
			l.answer = func(*api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
				return &api.AnswerChallengeResponse{}, nil
			}
		}), attestation.ReasonChallenge, "wrong answer"},
		{"another device answers the challenge", change(func(l *liar) { l.answer = honest(t, attestationtest.NewDevice("image")).answer }), attestation.ReasonChallenge, "wrong answer"},
		{"another device altogether", func(t *testing.T) string { return lying(t, honest(t, attestationtest.NewDevice("image"))) }, attestation.ReasonIdentity, "unknown device"},
		{"always busy", fails(func(t *testing.T) error { return refuse(t, "busy", 1) }), attestation.ReasonBusy, "the node refused: ?[31mno"},
		{"busy for ever", fails(func(t *testing.T) error { return refuse(t, "busy", 4e9) }), attestation.ReasonBusy, "the node refused"},
		{"a device that fails", fails(func(t *testing.T) error { return refuse(t, "issue", 0) }), attestation.ReasonIssue, "the node refused"},
		{"a reason of the verdict", fails(func(t *testing.T) error { return refuse(t, "measurements", 0) }), attestation.ReasonMalformed, "a reason that there is not"},
		{"a reason that there is not", fails(func(t *testing.T) error { return refuse(t, "\x1b[31m", 0) }), attestation.ReasonMalformed, "a reason that there is not"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := verify(t, tc.server(t), device, time.Second)
			wantReason(t, err, tc.want, tc.says)
		})
	}
}

func wantReason(t *testing.T, err error, want attestation.Reason, says string) {
	t.Helper()
	if reasonOf(err) != want || err == nil || !strings.Contains(err.Error(), says) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("got %v, want %v that says %q", err, want, says)
	}
}

// TestOverHTTP: the same by HTTP. What is well-formed is judged where there are TPMs.
func TestOverHTTP(t *testing.T) {
	page := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		want    attestation.Reason
		says    string
	}{
		{"truncated", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"version": 1`)
		}, attestation.ReasonClosed, "ended before the answer did"},
		{"half of a file", page(200, `{"version": 1, "parts": [`), attestation.ReasonMalformed, "not evidence in JSON"},
		{"V12: oversized", page(200, strings.Repeat(" ", evidencejson.MaxSize+1)), attestation.ReasonTooLarge, "an answer of more than"},
		{"V12: without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, attestation.ReasonTooLarge, "an answer of more than"},
		{"drop by drop", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, attestation.ReasonTimeout, "did not answer in time"},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, attestation.ReasonTimeout, "did not answer in time"},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, attestation.ReasonClosed, "ended before the answer did"},
		{"a page", page(200, "<html>"), attestation.ReasonMalformed, "not evidence in JSON"},
		{"JSON of something else", page(200, `{"kind": "Status"}`), attestation.ReasonMalformed, "not evidence in JSON"},
		{"another version", page(200, `{"version": 2, "parts": []}`), attestation.ReasonVersion, "version 2"},
		{"another technology", page(200, `{"version": 1, "parts": [{"technology": "test", "payload": {}}]}`), attestation.ReasonTechnology, `"test" is not known`},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusTemporaryRedirect) }, attestation.ReasonMalformed, "it says 307"},
		{"no such page", http.NotFound, attestation.ReasonMalformed, "it says 404"},
		{"a proxy that reaches nobody", page(502, "dial \x1b[31m"), unreachable, "says 502: dial ?[31m"},
		{"always busy", page(429, `{"reason": "busy", "detail": "\u001b[31mno", "retry_after_seconds": 1}`), attestation.ReasonBusy, "the node refused: ?[31mno"},
		{"a device that fails", page(500, `{"reason": "issue", "detail": "no"}`), attestation.ReasonIssue, "the node refused: no"},
		{"a reason of the verdict", page(400, `{"reason": "measurements", "detail": "no"}`), attestation.ReasonMalformed, "a reason that there is not"},
		{"an oversized refusal", page(400, `{"reason": "`+strings.Repeat("x", maxRefusal)+`"}`), attestation.ReasonMalformed, "it says 400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // only then does a server see its caller leave
				tc.handler(w, r)
			}))
			defer s.Close()
			defer s.CloseClientConnections()
			_, err := verify(t, s.URL, attestationtest.NewDevice("image"), time.Second)
			wantReason(t, err, tc.want, tc.says)
		})
	}
	t.Run("nobody", func(t *testing.T) {
		_, err := verify(t, "http://"+nobody(t), attestationtest.NewDevice("image"), time.Second)
		wantReason(t, err, unreachable, "connection refused")
	})
	t.Run("no answer at all", func(t *testing.T) {
		_, err := verify(t, "http://"+listen(t, silent(t)), attestationtest.NewDevice("image"), 200*time.Millisecond)
		wantReason(t, err, attestation.ReasonTimeout, "did not answer in time")
	})
}

// TestBusyForAWhile: whoever is patient is served.
func TestBusyForAWhile(t *testing.T) {
	device := attestationtest.NewDevice("image")
	l := honest(t, device)
	evidence, answer := l.evidence, l.answer
	var asked atomic.Int32
	l.evidence = func(r *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
		if asked.Add(1) == 1 {
			return nil, refuse(t, "busy", 1)
		}
		return evidence(r)
	}
	l.answer = func(r *api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
		if asked.Add(1) == 3 {
			return nil, refuse(t, "busy", 1)
		}
		return answer(r)
	}
	if _, err := verify(t, lying(t, l), device, 10*time.Second); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
}

// TestNoncesAreFresh: no two questions are alike, and each question's two parts are.
func TestNoncesAreFresh(t *testing.T) {
	device := attestationtest.NewDevice("image")
	l := honest(t, device)
	evidence, answer := l.evidence, l.answer
	seen := map[string]int{}
	l.evidence = func(r *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
		seen[string(r.Nonce)]++
		return evidence(r)
	}
	l.answer = func(r *api.AnswerChallengeRequest) (*api.AnswerChallengeResponse, error) {
		seen[string(r.Nonce)]++
		return answer(r)
	}
	address := lying(t, l)
	for range 3 {
		if _, err := verify(t, address, device, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(len(seen)) != "3" {
		t.Errorf("%d nonces in 3 verifications", len(seen))
	}
	for _, n := range seen {
		if n != 2 {
			t.Errorf("a nonce was used %d times", n)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, bad := range []string{"", "host", "http://", "ftp://host", "http://host?x", "http://user@host:1", "::1", "http://host#x"} {
		if c, err := New(bad, nil); err == nil {
			c.Close()
			t.Errorf("%q is taken for an endpoint", bad)
		}
	}
	for _, good := range []string{"host:1", "[::1]:1", "http://host:1", "https://host/api/v1/proxy"} {
		c, err := New(good, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
