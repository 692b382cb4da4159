// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	api "github.com/constellation-os/constellation/services/api/keyservice"
)

const diskID = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"

// tokens authenticates tokens that are names.
type tokens map[string]*Identity

func (k tokens) Authenticate(_ context.Context, token string, mayReview func() error) (*Identity, error) {
	if i, ok := k[token]; ok {
		return i, nil
	}
	if err := mayReview(); err != nil {
		return nil, err
	}
	return nil, refuse(ReasonToken, "unknown")
}

var (
	joinService = &Identity{Namespace: "kube-system", Name: "joinservice", Pod: "joinservice-abcde"}
	stranger    = &Identity{Namespace: "default", Name: "stranger"}
	known       = tokens{"join": joinService, "stranger": stranger}
	grants      = []Grant{{"kube-system/joinservice", []string{"state-disk", "measurement"}}}
)

// healthy makes a mode.Source of a keyring.
type healthy struct{ *keys.Keyring }

func (healthy) Health(context.Context) error { return nil }
func (h healthy) Close() error               { h.Wipe(); return nil }

// fixture is a service on loopback, its audit log, and a way to end it.
type fixture struct {
	*Service
	pki  *controlplanetest.PKI
	log  *safeBuffer
	stop func() error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func generous() Limits {
	return Limits{CallerRate: 1e6, CallerBurst: 1e6, ReviewRate: 1e6, ReviewBurst: 1e6, Connections: 2048}
}

func serve(t testing.TB, source mode.Source, limits Limits) *fixture {
	t.Helper()
	pki := controlplanetest.NewPKI(t, t.TempDir())
	certFile, keyFile := pki.Issue(t, "keyservice", "keyservice.kube-system.svc")
	cert, err := newCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := NewPolicy(grants)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{pki: pki, log: &safeBuffer{}}
	c := &Config{Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Limits: limits}
	f.Service, err = listen(c, cert, Options{
		Source: source, Authenticator: known, Policy: policy, Limits: limits, Metrics: NewMetrics(),
		Audit: slog.New(slog.NewJSONHandler(f.log, nil)),
	}, source)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			t.Error("the service did not end")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// connect makes a connection that trusts the cluster's authority.
func (f *fixture) connect(t testing.TB) api.KeyServiceClient {
	t.Helper()
	pem, err := os.ReadFile(f.pki.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient(f.Address(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, ServerName: "keyservice.kube-system.svc",
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewKeyServiceClient(conn)
}

func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func request() *api.GetDataKeyRequest {
	return &api.GetDataKeyRequest{Purpose: "state-disk", Id: diskID, Length: 32}
}

func wantRefusal(t testing.TB, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	got := ""
	for _, d := range st.Details() {
		if r, ok := d.(*api.Refusal); ok {
			got = r.Reason
		}
	}
	if st.Code() != code || got != reason {
		t.Errorf("got %v, reason %q (%s), want %v, reason %q", st.Code(), got, st.Message(), code, reason)
	}
}

// lastAudit is the last line of the audit log.
func (f *fixture) lastAudit(t testing.TB) map[string]any {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(f.log.String()), "\n")
	var record map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &record); err != nil {
		t.Fatal(err)
	}
	return record
}
