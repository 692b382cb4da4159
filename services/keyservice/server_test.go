// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	api "github.com/constellation-os/constellation/services/api/keyservice"
	"github.com/constellation-os/constellation/services/audit"
)

func TestGetDataKey(t *testing.T) {
	ring := keys.Generate()
	f := serve(t, healthy{ring}, generous())
	want, err := ring.DataKey(t.Context(), keys.PurposeStateDisk, diskID, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.connect(t).GetDataKey(as(t.Context(), "join"), request())
	if err != nil {
		t.Fatal(err)
	}
	if !want.Secret.Equal(keys.NewSecret(got.Key)) || got.Version != 1 {
		t.Errorf("got another key, version %d", got.Version)
	}
	for name, want := range map[string]any{
		"verdict": "granted", "caller": "kube-system/joinservice", "pod": "joinservice-abcde", "purpose": "state-disk",
		"id": diskID, "length": 32.0, "granted_version": 1.0, "address": "127.0.0.1", "level": "INFO",
	} {
		if got := f.lastAudit(t)[name]; got != want {
			t.Errorf("audit: %s is %v, want %v", name, got, want)
		}
	}
}

// TestRefusals: each with its reason, to the caller and in the audit log. (V18)
func TestRefusals(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	client := f.connect(t)
	with := func(change func(*api.GetDataKeyRequest)) *api.GetDataKeyRequest {
		r := request()
		change(r)
		return r
	}
	bearer := func(values ...string) context.Context {
		ctx := t.Context()
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		return ctx
	}
	for _, tc := range []struct {
		name   string
		ctx    context.Context
		req    *api.GetDataKeyRequest
		code   codes.Code
		reason string
	}{
		{"no token", t.Context(), request(), codes.Unauthenticated, "no-token"},
		{"an empty token", bearer("Bearer "), request(), codes.Unauthenticated, "no-token"},
		{"another scheme", bearer("Basic join"), request(), codes.Unauthenticated, "no-token"},
		{"two tokens", bearer("Bearer join", "Bearer stranger"), request(), codes.Unauthenticated, "no-token"},
		{"a wrong token", bearer("Bearer x"), request(), codes.Unauthenticated, "token"},
		{"V18: a pod without the right identity", bearer("Bearer stranger"), request(), codes.PermissionDenied, "not-granted"},
		{"V18: the right identity, another purpose", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Purpose = "recovery" }), codes.PermissionDenied, "not-granted"},
		{"no purpose", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Purpose = "" }), codes.InvalidArgument, "invalid"},
		{"unknown purpose", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Purpose = "state-disk/" + diskID }), codes.InvalidArgument, "invalid"},
		{"no id", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Id = "" }), codes.InvalidArgument, "invalid"},
		{"an id with a slash", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Id = "../recovery/cluster" }), codes.InvalidArgument, "invalid"},
		{"length 0", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Length = 0 }), codes.InvalidArgument, "invalid"},
		{"length 65", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Length = 65 }), codes.InvalidArgument, "invalid"},
		{"the largest length", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Length = 1<<32 - 1 }), codes.InvalidArgument, "invalid"},
		{"a version that is not there", bearer("Bearer join"), with(func(r *api.GetDataKeyRequest) { r.Version = 9 }), codes.NotFound, "version"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, err := client.GetDataKey(tc.ctx, tc.req)
			wantRefusal(t, err, tc.code, tc.reason)
			if resp != nil {
				t.Error("there is a response besides the refusal")
			}
			record := f.lastAudit(t)
			if record["verdict"] != "refused" || record["reason"] != tc.reason || record["level"] != "WARN" || record["purpose"] != tc.req.Purpose {
				t.Errorf("audit: %v", record)
			}
		})
	}
	t.Run("a request too large", func(t *testing.T) {
		_, err := client.GetDataKey(as(t.Context(), "join"), with(func(r *api.GetDataKeyRequest) { r.Id = strings.Repeat("x", maxRequest) }))
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOnlyTLS13(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	conn, err := grpc.NewClient(f.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := api.NewKeyServiceClient(conn).GetDataKey(as(t.Context(), "join"), request()); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
	_, err = tls.Dial("tcp", f.Address(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("TLS 1.2: %v", err)
	}
	if f.log.String() != "" {
		t.Errorf("audited: %s", f.log)
	}
}

// TestNothingSecretIsLogged looks for keys and tokens in every form in the audit log and the metrics.
func TestNothingSecretIsLogged(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	got, err := f.connect(t).GetDataKey(as(t.Context(), "join"), request())
	if err != nil {
		t.Fatal(err)
	}
	f.connect(t).GetDataKey(as(t.Context(), "a-token-of-somebody"), request())
	written := f.log.String() + scrape(t, f, "/metrics")
	if !strings.Contains(written, diskID) {
		t.Fatal("nothing was logged: this test looks at nothing")
	}
	for _, secret := range []string{
		"a-token-of-somebody", string(got.Key), hex.EncodeToString(got.Key[:6]), base64.StdEncoding.EncodeToString(got.Key[:6]),
		strings.Trim(fmt.Sprint(got.Key[:4]), "[]"),
	} {
		if strings.Contains(written, secret) {
			t.Errorf("logged: %q", secret)
		}
	}
}

func TestStrangersCannotFillTheLog(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	r := request()
	r.Id, r.Purpose = strings.Repeat("\n", 3000), strings.Repeat("p", 1000)
	f.connect(t).GetDataKey(as(t.Context(), "join"), r)
	if n := len(f.log.String()); n > 2000 || strings.Count(f.log.String(), "\n") != 1 {
		t.Errorf("%d bytes: %s", n, f.log)
	}
}

// TestFloodOfRefusals: strangers cannot push the others out of the log, nor can a
// service account that asks too often. What is left out is counted.
func TestFloodOfRefusals(t *testing.T) {
	limits := generous()
	limits.CallerRate, limits.CallerBurst = 0.001, 1
	for name, token := range map[string]string{"without a token": "", "with a wrong token": "nobody", "too often": "stranger"} {
		t.Run(name, func(t *testing.T) {
			const asked = 5 * audit.RefusalBurst
			f := serve(t, healthy{keys.Generate()}, limits)
			client := f.connect(t)
			ctx := t.Context()
			if token != "" {
				ctx = as(ctx, token)
			}
			began := time.Now()
			for range asked {
				client.GetDataKey(ctx, request())
			}
			refusals := strings.Count(f.log.String(), "\n")
			if most := audit.RefusalBurst + 2 + audit.RefusalRate*int(time.Since(began)/time.Second+1); refusals < audit.RefusalBurst || refusals > most {
				t.Errorf("%d lines, want %d to %d", refusals, audit.RefusalBurst, most)
			}
			if _, err := client.GetDataKey(as(t.Context(), "join"), request()); err != nil {
				t.Fatal(err)
			}
			if f.lastAudit(t)["verdict"] != "granted" {
				t.Errorf("what was granted is not logged: %v", f.lastAudit(t))
			}
			counted := 0
			for line := range strings.Lines(f.log.String()) {
				var record struct{ Unlogged int }
				if err := json.Unmarshal([]byte(line), &record); err != nil {
					t.Fatal(err)
				}
				counted += record.Unlogged
			}
			if refusals+counted != asked {
				t.Errorf("%d lines and %d counted, of %d", refusals, counted, asked)
			}
		})
	}
}

func TestRates(t *testing.T) {
	limits := generous()
	limits.CallerRate, limits.CallerBurst = 0.001, 3
	limits.ReviewRate, limits.ReviewBurst = 0.001, 2
	f := serve(t, healthy{keys.Generate()}, limits)
	client := f.connect(t)
	for range 3 {
		if _, err := client.GetDataKey(as(t.Context(), "join"), request()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.GetDataKey(as(t.Context(), "join"), request())
	wantRefusal(t, err, codes.ResourceExhausted, "rate")
	// Another caller is not affected, nor do strangers use up a caller's rate.
	_, err = client.GetDataKey(as(t.Context(), "stranger"), request())
	wantRefusal(t, err, codes.PermissionDenied, "not-granted")
	for _, want := range []string{"token", "token", "rate"} {
		_, err = client.GetDataKey(as(t.Context(), "nobody"), request())
		wantRefusal(t, err, map[string]codes.Code{"token": codes.Unauthenticated, "rate": codes.ResourceExhausted}[want], want)
	}
}

func TestThousandCallersAtOnce(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	clients := make([]api.KeyServiceClient, 50)
	for i := range clients {
		clients[i] = f.connect(t)
	}
	start := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for i := range 1000 {
		wg.Go(func() {
			<-start
			resp, err := clients[i%len(clients)].GetDataKey(as(t.Context(), "join"), request())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				answers[err.Error()]++
			} else {
				answers[hex.EncodeToString(resp.Key)]++
			}
		})
	}
	close(start)
	wg.Wait()
	if len(answers) != 1 {
		t.Errorf("%d different answers: %v", len(answers), answers)
	}
}

// userManaged is a source with a KMS and a store that fail as the test wants.
func userManaged(t *testing.T, limits managed.Limits) (*managed.Source, *managedtest.KMS, *managedtest.Store) {
	t.Helper()
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	s, err := managed.NewSource(managed.Config{
		Salt: bytes.Repeat([]byte("salt"), 8), Store: managed.GuardStore(store, limits),
		KEKs: map[keys.Version]managed.KMS{1: managed.Guard(kms, limits)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, kms, store
}

func quick() managed.Limits {
	l := managed.DefaultLimits()
	l.Attempt, l.Total, l.FirstPause, l.LastPause = 50*time.Millisecond, 100*time.Millisecond, time.Millisecond, time.Millisecond
	return l
}

// TestBackendFaults: what goes wrong behind the service has a reason each, and
// the caller learns no more than that.
func TestBackendFaults(t *testing.T) {
	for class, code := range map[keys.Class]codes.Code{
		keys.ClassUnreachable: codes.Unavailable, keys.ClassThrottled: codes.ResourceExhausted, keys.ClassNotPermitted: codes.FailedPrecondition,
		keys.ClassKeyMissing: codes.FailedPrecondition, keys.ClassKeyDisabled: codes.FailedPrecondition, keys.ClassWrongKey: codes.FailedPrecondition,
		keys.ClassCorrupted: codes.DataLoss, keys.ClassInternal: codes.Internal,
	} {
		for _, backend := range []string{"kms", "store"} {
			t.Run(backend+" "+string(class), func(t *testing.T) {
				source, kms, store := userManaged(t, quick())
				fault := func(context.Context, string) error { return keys.Errorf(class, "at host db.example") }
				if backend == "kms" {
					kms.Fault = fault
				} else {
					store.Fault = fault
				}
				f := serve(t, source, generous())
				_, err := f.connect(t).GetDataKey(as(t.Context(), "join"), request())
				wantRefusal(t, err, code, string(class))
				if strings.Contains(err.Error(), "db.example") {
					t.Errorf("the caller is told %q", err)
				}
				if text := f.lastAudit(t)["error"].(string); !strings.Contains(text, "db.example") {
					t.Errorf("the audit log does not say what happened: %s", text)
				}
			})
		}
	}
}

func TestSlowKMS(t *testing.T) {
	source, kms, _ := userManaged(t, quick())
	kms.Fault = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	f := serve(t, source, generous())
	_, err := f.connect(t).GetDataKey(as(t.Context(), "join"), request())
	wantRefusal(t, err, codes.Unavailable, "timeout")
}

func TestReadiness(t *testing.T) {
	source, kms, _ := userManaged(t, quick())
	kms.Fault = func(_ context.Context, op string) error { return keys.Errorf(keys.ClassUnreachable, "down") }
	f := serve(t, source, generous())
	if got := scrape(t, f, "/healthz"); got != "200 ok\n" {
		t.Errorf("/healthz: %q", got)
	}
	if got := scrape(t, f, "/readyz"); got != "503 not ready\n" {
		t.Errorf("/readyz with the KMS down: %q", got)
	}
	f2 := serve(t, healthy{keys.Generate()}, generous())
	f2.connect(t).GetDataKey(as(t.Context(), "join"), request())
	if got := scrape(t, f2, "/readyz"); got != "200 ok\n" {
		t.Errorf("/readyz: %q", got)
	}
}

func TestMetrics(t *testing.T) {
	f := serve(t, healthy{keys.Generate()}, generous())
	client := f.connect(t)
	client.GetDataKey(as(t.Context(), "join"), request())
	client.GetDataKey(as(t.Context(), "stranger"), request())
	client.GetDataKey(as(t.Context(), "join"), &api.GetDataKeyRequest{Purpose: "made up by a stranger"})
	got := scrape(t, f, "/metrics")
	for _, want := range []string{
		`constellation_keyservice_requests_total{purpose="state-disk",reason=""} 1`,
		`constellation_keyservice_requests_total{purpose="state-disk",reason="not-granted"} 1`,
		`constellation_keyservice_requests_total{purpose="unknown",reason="invalid"} 1`,
		"constellation_keyservice_request_duration_seconds_count 3",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func scrape(t *testing.T, f *fixture, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + f.HTTPAddress() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}
