// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// generous limits get in no test's way.
func generous() Limits {
	return Limits{Rate: 10000, Burst: 10000, AddressRate: 10000, AddressBurst: 10000, Connections: 512}
}

// serve runs a service until the test ends.
func serve(t *testing.T, r attestation.Responder, l Limits, change func(*Service)) *Service {
	t.Helper()
	s, err := Listen(Addresses{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}, r, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// dial makes a client that connects from an address of this machine; "" is any.
func dial(t *testing.T, s *Service, from string) api.VerificationServiceClient {
	t.Helper()
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := grpc.NewClient("passthrough:///"+s.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewVerificationServiceClient(conn)
}

// refusalIn is what a service said by gRPC.
func refusalIn(err error) *api.Refusal {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*api.Refusal); ok {
			return r
		}
	}
	return nil
}

// recorded answers with what a software TPM once said, whatever it is asked.
type recorded struct{ evidence *attestation.Evidence }

func newRecorded(t *testing.T) *recorded {
	t.Helper()
	data, err := os.ReadFile("../../cli/evidence/testdata/recorded/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	e, err := evidencejson.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return &recorded{e}
}

func (r *recorded) Technology() attestation.Technology { return "tpm" }

func (r *recorded) Issue(context.Context, attestation.Binding) (*attestation.Evidence, error) {
	return r.evidence, nil
}

func (r *recorded) Respond(_ context.Context, _ attestation.Binding, challenge []byte) ([]byte, error) {
	return append([]byte("answer to "), challenge...), nil
}
