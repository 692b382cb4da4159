// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

var image = Image{Name: "constellation", Version: "1.2.3", Flavour: "qemu"}

func channel(t *testing.T, node *attestationtest.Device) credentials.TransportCredentials {
	t.Helper()
	c, err := atls.ServerProve(node, atls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve runs a node until the test ends. The function stops it early.
func serve(t *testing.T, node *attestationtest.Device) (address string, stop func() error) {
	t.Helper()
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(ctx, options(t)).Serve(ctx, l, channel(t, node)) }()
	t.Cleanup(cancel)
	return l.Addr().String(), func() error { cancel(); return <-ended }
}

func client(t *testing.T, address string, c credentials.TransportCredentials) api.BootstrapperClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewBootstrapperClient(conn)
}

// verifying makes the owner's credentials, and returns how each handshake ended.
func verifying(t *testing.T, accepted *attestationtest.Device) (credentials.TransportCredentials, chan atls.Outcome) {
	t.Helper()
	outcomes := make(chan atls.Outcome, 16)
	c, err := atls.ClientVerify([]attestation.Verifier{attestationtest.Accept(accepted)}, atls.Options{Observe: func(o atls.Outcome) { outcomes <- o }})
	if err != nil {
		t.Fatal(err)
	}
	return c, outcomes
}

func TestStatus(t *testing.T) {
	node := attestationtest.NewDevice("image")
	address, stop := serve(t, node)
	c, outcomes := verifying(t, node)
	got, err := client(t, address, c).Status(t.Context(), &api.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.State != api.State_STATE_WAITING || got.Image.GetName() != "constellation" || got.Image.GetVersion() != "1.2.3" || got.Image.GetFlavour() != "qemu" {
		t.Errorf("status is %v", got)
	}
	if o := <-outcomes; o.Claims == nil || o.Claims.Image != "image" {
		t.Errorf("the node proved %+v", o.Claims)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client(t, address, c).Status(ctx, &api.StatusRequest{}); err == nil {
		t.Error("a service that was stopped answers")
	}
}

func TestAnotherNodeIsRefused(t *testing.T) {
	address, _ := serve(t, attestationtest.NewDevice("image"))
	c, outcomes := verifying(t, attestationtest.NewDevice("image"))
	if _, err := client(t, address, c).Status(t.Context(), &api.StatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the call ended with %v", err)
	}
	if o := <-outcomes; attestation.ReasonOf(o.Err) != attestation.ReasonIdentity {
		t.Errorf("the handshake ended with %v", o.Err)
	}
}

// TestOnlyAttestedChannels: nobody can serve the service without one by mistake.
func TestOnlyAttestedChannels(t *testing.T) {
	for name, c := range map[string]credentials.TransportCredentials{"nothing": nil, "plaintext": insecure.NewCredentials(), "TLS": credentials.NewTLS(nil)} {
		t.Run(name, func(t *testing.T) {
			err := New(t.Context(), options(t)).Serve(t.Context(), listen(t), c)
			if err == nil || !strings.Contains(err.Error(), "attested channel only") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPlaintextCallersAreNotServed(t *testing.T) {
	address, _ := serve(t, attestationtest.NewDevice("image"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := client(t, address, insecure.NewCredentials()).Status(ctx, &api.StatusRequest{}); err == nil {
		t.Errorf("answered %v", got)
	}
}

func TestParseOSRelease(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Image
	}{
		{"ours", "NAME=\"Constellation\"\nIMAGE_ID=constellation\nIMAGE_VERSION=1.2.3\nVARIANT_ID=qemu\n", image},
		{"quoted", "IMAGE_ID='constellation'\nIMAGE_VERSION=\"1.2.3\"\nVARIANT_ID=qemu", image},
		{"another system's", "ID=debian\nVERSION_ID=13\n", Image{}},
		{"without a flavour", "IMAGE_ID=constellation\nIMAGE_VERSION=1.2.3\n", Image{}},
		{"nothing", "", Image{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseOSRelease([]byte(tc.text))
			if got != tc.want || (err == nil) != (tc.want != Image{}) {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}
