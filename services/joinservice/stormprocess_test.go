// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/attestation/tpm/tpmtest"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

const stormDir = "JOINSERVICE_STORM_DIR"

// TestStormProcess is the service that TestStorm measures, in a process of its own. Its
// memory holds the bindings too, which in a cluster the API server keeps.
func TestStormProcess(t *testing.T) {
	dir := os.Getenv(stormDir)
	if dir == "" {
		t.Skip("only run by TestStorm")
	}
	ring, err := keys.Load(filepath.Join(dir, "master.json"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := NewAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := NewPolicy(tpm.Technology, func(d *policy.Document) (attestation.Verifier, error) {
		return tpm.NewVerifier(d, tpm.VerifierOptions{})
	}, nil)
	if err := p.Load(data); err != nil {
		t.Fatal(err)
	}
	cluster := &parameters.Cluster{Endpoint: "10.0.0.1:6443", Salt: ring.Salt(), Components: []byte(`{"components":[]}`), Sources: []string{"http://10.0.0.1:5000"}}
	s, err := NewServer(Options{
		Policy: p, Keys: ring, Bindings: bindings.New(bindingstest.New(), nil), Authority: authority,
		Cluster: func() *parameters.Cluster { return cluster }, Limits: generous(), Metrics: NewMetrics(), Events: nowhere{},
		Audit: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	serveStorm(t, s)
}

type nowhere struct{}

func (nowhere) Record(Event) {}

// serveStorm serves until its input ends, and then looks for what was left behind.
func serveStorm(t *testing.T, s *Server) {
	machine, err := tpmtest.New(tpmtest.Observed(tpmtest.Prediction("control plane", 100)))
	if err != nil {
		t.Fatal(err)
	}
	o := quotes
	o.Observe = s.Handshake
	channel, err := atls.ServerMutual(machine, []attestation.Verifier{s.Policy}, o)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	server := newGRPC(channel)
	api.RegisterJoinServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	fmt.Printf("STORM %s %s\n", listener.Addr(), machine.Identity().Value)
	io.Copy(io.Discard, os.Stdin)
	server.GracefulStop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left: %s", runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
