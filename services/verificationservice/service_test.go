// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

var nonce = bytes.Repeat([]byte{0x5a}, 32)

// TestByGRPC: the whole exchange, and the service keeps nothing in between: the
// challenge comes on another connection than the evidence.
func TestByGRPC(t *testing.T) {
	device := attestationtest.NewDevice("image")
	policy := attestationtest.Accept(device)
	policy.Rounds = 2
	s := serve(t, device, generous(), nil)
	got, err := dial(t, s, "").GetEvidence(t.Context(), &api.GetEvidenceRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	e, err := attestation.ParseEvidence(got.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attestation.NonceBinding(nonce)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := policy.Verify(t.Context(), e, b, func(ctx context.Context, challenge []byte) ([]byte, error) {
		r, err := dial(t, s, "").AnswerChallenge(ctx, &api.AnswerChallengeRequest{Nonce: nonce, Challenge: challenge})
		return r.GetResponse(), err
	})
	if err != nil || claims.Image != "image" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	other, _ := attestation.NonceBinding(bytes.Repeat([]byte{1}, 32))
	if _, err := policy.Verify(t.Context(), e, other, nil); attestation.ReasonOf(err) != attestation.ReasonBinding {
		t.Errorf("for another nonce: %v", err)
	}
}

func post(t *testing.T, s *Service, path, body string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Post("http://"+s.Addresses().HTTP+path, "application/x-www-form-urlencoded", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

// TestByHTTP: the same content, in the forms of "constellation evidence".
func TestByHTTP(t *testing.T) {
	r := newRecorded(t)
	s := serve(t, r, generous(), nil)
	for _, text := range []string{hex.EncodeToString(nonce), base64.StdEncoding.EncodeToString(nonce) + "\n"} {
		resp, body := post(t, s, api.EvidencePath, text)
		e, err := evidencejson.Parse([]byte(body))
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" || err != nil {
			t.Fatalf("%s, %v: %v", resp.Status, resp.Header, err)
		}
		got, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := r.evidence.Marshal(); !bytes.Equal(got, want) {
			t.Error("the evidence is another than the device's")
		}
	}
	resp, body := post(t, s, api.ResponsePath+"?nonce="+hex.EncodeToString(nonce), base64.StdEncoding.EncodeToString([]byte("challenge"))+"\n")
	if want := base64.StdEncoding.EncodeToString([]byte("answer to challenge")) + "\n"; resp.StatusCode != http.StatusOK || body != want {
		t.Errorf("%s, %q, want %q", resp.Status, body, want)
	}
}

// TestRefusals: the reason and what can be done, the same by both ways.
func TestRefusals(t *testing.T) {
	broken := attestationtest.NewDevice("image")
	broken.OnIssue = func(context.Context) error { return errors.New("secret of the device") }
	good := newRecorded(t)
	challenge := base64.StdEncoding.EncodeToString([]byte("challenge"))
	hexNonce := hex.EncodeToString(nonce)
	long := strings.Repeat("A", 3*attestation.MaxChallengeSize)
	for _, tc := range []struct {
		name       string
		responder  attestation.Responder
		path, body string // by HTTP
		grpc       any    // nil where a request cannot be written so
		reason     string
		code       int
		detail     string
	}{
		{"a short nonce", good, api.EvidencePath, "5a5a", &api.GetEvidenceRequest{Nonce: []byte("ZZ")}, "binding", 400, "a nonce of 2 bytes, want 32 to 64"},
		{"a long nonce by HTTP", good, api.EvidencePath, strings.Repeat("5a", 65), nil, "too-large", 413, "a nonce of 130 characters, at most 128"},
		{"a long nonce by gRPC", good, "", "", &api.GetEvidenceRequest{Nonce: make([]byte, 65)}, "binding", 0, "a nonce of 65 bytes, want 32 to 64"},
		{"no nonce", good, api.EvidencePath, "", &api.GetEvidenceRequest{}, "binding", 400, "a nonce of 0 bytes, want 32 to 64"},
		{"a nonce that is none", good, api.EvidencePath, "nonce=1!", nil, "malformed", 400, "neither hexadecimal nor base64"},
		{"a nonce without end", good, api.EvidencePath, strings.Repeat("5a", 1000), nil, "too-large", 413, "more than 256 bytes"},
		{"no challenge", good, api.ResponsePath + "?nonce=" + hexNonce, "", &api.AnswerChallengeRequest{Nonce: nonce}, "malformed", 400, "there is no challenge"},
		{"a challenge without a nonce", good, api.ResponsePath, challenge, &api.AnswerChallengeRequest{Challenge: []byte("x")}, "binding", 400, "a nonce of 0 bytes"},
		{"a challenge that is none", good, api.ResponsePath + "?nonce=" + hexNonce, "{}", nil, "malformed", 400, "not one line of base64"},
		{"a challenge without end", good, api.ResponsePath + "?nonce=" + hexNonce, long, nil, "too-large", 413, "more than 8192 bytes"},
		{"a long challenge", good, api.ResponsePath + "?nonce=" + hexNonce, long[:6000], &api.AnswerChallengeRequest{Nonce: nonce, Challenge: make([]byte, 4500)}, "too-large", 413, "a challenge of 4500 bytes, at most 4096"},
		{"a device that fails", broken, api.EvidencePath, hexNonce, &api.GetEvidenceRequest{Nonce: nonce}, "issue", 500, "VerificationService's log says why"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, tc.responder, generous(), nil)
			if tc.path != "" {
				resp, body := post(t, s, tc.path, tc.body)
				var r api.HTTPRefusal
				if err := json.Unmarshal([]byte(body), &r); err != nil || resp.StatusCode != tc.code || r.Reason != tc.reason || !strings.Contains(r.Detail, tc.detail) {
					t.Errorf("by HTTP: %s, %s", resp.Status, body)
				}
				if strings.Contains(body, "secret of the device") {
					t.Error("a stranger is told what goes on in the device")
				}
			}
			if tc.grpc != nil {
				err := call(t, dial(t, s, ""), tc.grpc)
				if got := refusalIn(err); got.GetReason() != tc.reason || !strings.Contains(err.Error(), tc.detail) {
					t.Errorf("by gRPC: %v, %v", got, err)
				}
			}
		})
	}
}

func call(t *testing.T, c api.VerificationServiceClient, request any) (err error) {
	t.Helper()
	switch r := request.(type) {
	case *api.GetEvidenceRequest:
		_, err = c.GetEvidence(t.Context(), r)
	case *api.AnswerChallengeRequest:
		_, err = c.AnswerChallenge(t.Context(), r)
	}
	return err
}

// TestLog: the log says why the node could not prove itself, and nothing that a
// stranger could write into it.
func TestLog(t *testing.T) {
	broken := attestationtest.NewDevice("image")
	broken.OnIssue = func(context.Context) error { return errors.New("cause") }
	var out bytes.Buffer
	any := "127.0.0.1:0"
	s, err := Listen(Addresses{any, any, any}, broken, generous(), slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	for range 10 {
		post(t, s, api.EvidencePath, "stranger")
	}
	post(t, s, api.EvidencePath, hex.EncodeToString(nonce))
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `operation=evidence address=127.0.0.1 error="issue: cause"`) {
		t.Errorf("the log: %s", text)
	}
}

// TestOtherRequests: there is nothing else to have.
func TestOtherRequests(t *testing.T) {
	s := serve(t, newRecorded(t), generous(), nil)
	for path, want := range map[string]int{"/": 404, "/metrics": 404, "/healthz": 404, api.EvidencePath: 405} {
		resp, err := http.Get("http://" + s.Addresses().HTTP + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
}

// TestWhoWaitsIsNotGone: waiting for the TPM may take longer than sending a request.
func TestWhoWaitsIsNotGone(t *testing.T) {
	r := newRecorded(t)
	s := serve(t, slow{r, 500 * time.Millisecond}, generous(), func(s *Service) { s.http.ReadTimeout = 100 * time.Millisecond })
	if resp, body := post(t, s, api.EvidencePath, hex.EncodeToString(nonce)); resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %s", resp.Status, body)
	}
}

// slow takes its time, until the context ends.
type slow struct {
	*recorded
	time time.Duration
}

func (s slow) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	select {
	case <-time.After(s.time):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.recorded.Issue(ctx, b)
}

// TestOneOperationAtATime, however many ask by whatever way.
func TestOneOperationAtATime(t *testing.T) {
	var mu sync.Mutex
	device := attestationtest.NewDevice("image")
	device.OnIssue = func(context.Context) error {
		if !mu.TryLock() {
			t.Error("two operations at once")
			return nil
		}
		defer mu.Unlock()
		time.Sleep(5 * time.Millisecond) // a device that takes that long
		return nil
	}
	s := serve(t, device, generous(), nil)
	c := dial(t, s, "")
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := c.GetEvidence(t.Context(), &api.GetEvidenceRequest{Nonce: nonce}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			post(t, s, api.EvidencePath, hex.EncodeToString(nonce)) // of a technology that has no form in JSON
		})
	}
	wg.Wait()
}

func TestListenRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ports := Addresses{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}
	busyPort := serve(t, newRecorded(t), generous(), nil).Addresses().GRPC
	var none *recorded
	for name, tc := range map[string]struct {
		addresses Addresses
		responder attestation.Responder
		limits    Limits
		log       *slog.Logger
		want      string
	}{
		"no device":      {ports, nil, DefaultLimits(), log, "it needs a device"},
		"no real device": {ports, none, DefaultLimits(), log, "it needs a device"},
		"no log":         {ports, newRecorded(t), DefaultLimits(), nil, "it needs a device to prove by, and a log"},
		"no limits":      {ports, newRecorded(t), Limits{}, log, "limits must be positive"},
		"a busy port":    {Addresses{"127.0.0.1:0", busyPort, "127.0.0.1:0"}, newRecorded(t), DefaultLimits(), log, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Listen(tc.addresses, tc.responder, tc.limits, tc.log); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
