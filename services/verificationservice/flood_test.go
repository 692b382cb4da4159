// SPDX-License-Identifier: Apache-2.0

package verificationservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

func at(n int) net.Addr { return &net.TCPAddr{IP: net.IPv4(198, 51, 100, byte(n)), Port: 1} }

// TestFlood (V22): with the limits as shipped, the TPM is asked no more often than the
// rate says, and a caller at another address waits no longer than docs/verify.md says. The
// clock is the bubble's.
func TestFlood(t *testing.T) {
	const operation = 20 * time.Millisecond
	for _, sources := range []int{1, 10, 100, 199} {
		t.Run(fmt.Sprint(sources, " addresses"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := DefaultLimits()
				var operations atomic.Int64
				device := attestationtest.NewDevice("image")
				device.OnIssue = func(context.Context) error {
					operations.Add(1)
					time.Sleep(operation)
					return nil
				}
				p := newProver(device, limits, func(string, time.Duration) {})
				ctx, cancel := context.WithCancel(t.Context())
				began := time.Now()
				var wg sync.WaitGroup
				for i := range sources {
					for range 4 {
						wg.Go(func() {
							for ctx.Err() == nil {
								p.Evidence(ctx, at(i), nonce)
								time.Sleep(10 * time.Millisecond)
							}
						})
					}
				}
				time.Sleep(30 * time.Second)
				for range 3 {
					asked := time.Now()
					if _, err := p.Evidence(t.Context(), at(255), nonce); err != nil {
						t.Errorf("a legitimate caller: %v", err)
					}
					bound := time.Duration(float64(sources+1)/limits.Rate*float64(time.Second)) + 2*operation
					if took := time.Since(asked); took > bound {
						t.Errorf("a legitimate caller waited %v, at most %v", took, bound)
					}
				}
				most := int64(limits.Burst) + int64(limits.Rate*time.Since(began).Seconds()) + 1
				if n := operations.Load(); n > most {
					t.Errorf("%d operations in %v, at most %d", n, time.Since(began), most)
				}
				cancel()
				wg.Wait()
				time.Sleep(operation) // that nobody waits for any more
			})
		})
	}
}

// TestAddressRate (V22): one address alone has its share, and is told when to come again.
func TestAddressRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		p := newProver(attestationtest.NewDevice("image"), limits, func(string, time.Duration) {})
		served := 0
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
			_, err := p.Evidence(t.Context(), at(1), nonce)
			var b *busy
			switch {
			case err == nil:
				served++
			case attestation.ReasonOf(err) != attestation.ReasonBusy || !errors.As(err, &b) || b.after < time.Second/2:
				t.Fatalf("refused as %v", err)
			}
		}
		if want := limits.AddressBurst + 10*int(limits.AddressRate); served < want-1 || served > want {
			t.Errorf("%d served in 10 s, want %d", served, want)
		}
	})
}

// TestTooManyAddresses: more than can have a turn in time are told so at once.
func TestTooManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := attestationtest.NewDevice("image")
		release := make(chan struct{})
		device.OnIssue = func(context.Context) error { <-release; return nil }
		p := newProver(device, DefaultLimits(), func(string, time.Duration) {})
		var wg sync.WaitGroup
		for i := range 200 + 1 { // one has a turn
			wg.Go(func() { p.Evidence(t.Context(), &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))}, nonce) })
		}
		synctest.Wait()
		began := time.Now()
		_, err := p.Evidence(t.Context(), at(1), nonce)
		if attestation.ReasonOf(err) != attestation.ReasonBusy || !strings.Contains(err.Error(), "too many are waiting") || time.Since(began) != 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		close(release)
		wg.Wait()
	})
}

// TestSilentTPM: who waits is told, nobody else is let at the TPM meanwhile, and the
// service says that it is not ready.
func TestSilentTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := attestationtest.NewDevice("image")
		release := make(chan struct{})
		var inside atomic.Int32
		device.OnIssue = func(context.Context) error { inside.Add(1); <-release; return nil }
		p := newProver(device, DefaultLimits(), func(string, time.Duration) {})
		if err := p.Health(); err != nil {
			t.Error(err)
		}
		_, err := p.Evidence(t.Context(), at(1), nonce)
		if attestation.ReasonOf(err) != attestation.ReasonTimeout {
			t.Errorf("the first: %v", err)
		}
		_, err = p.Evidence(t.Context(), at(2), nonce)
		if attestation.ReasonOf(err) != attestation.ReasonBusy || inside.Load() != 1 {
			t.Errorf("the second: %v, %d inside", err, inside.Load())
		}
		if err := p.Health(); err == nil || err.Error() != "the TPM does not answer" {
			t.Errorf("health: %v", err)
		}
		close(release)
		synctest.Wait()
		if _, err := p.Evidence(t.Context(), at(3), nonce); err != nil || p.Health() != nil {
			t.Errorf("once it answers: %v, %v", err, p.Health())
		}
	})
}

// TestFloodOverTheNetwork (V22): by real connections from many addresses that ask,
// stall and say nothing, a legitimate caller is served.
func TestFloodOverTheNetwork(t *testing.T) {
	if conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 1, 1)}}).Dial("udp", "127.0.0.1:9"); err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	} else {
		conn.Close()
	}
	const sources = 20
	limits := Limits{Rate: 50, Burst: 10, AddressRate: 20, AddressBurst: 10, Connections: 8 * sources}
	s := serve(t, attestationtest.NewDevice("image"), limits, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var refusedBusy atomic.Int64
	for i := range sources {
		from := fmt.Sprintf("127.0.1.%d", i+1)
		c := dial(t, s, from)
		for range 12 { // more than may wait
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := c.GetEvidence(ctx, &api.GetEvidenceRequest{Nonce: nonce})
					if r := refusalIn(err); r.GetReason() == "busy" {
						refusedBusy.Add(1)
						time.Sleep(10 * time.Millisecond) // the processors are others' too
					}
				}
			})
		}
		for range 4 { // more than one says nothing, by each way
			for _, address := range []string{s.Addresses().GRPC, s.Addresses().HTTP} {
				conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
			}
		}
	}
	for deadline := time.Now().Add(20 * time.Second); refusedBusy.Load() < sources; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("nobody is refused: this is no flood")
			break
		}
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).DialContext}}
	defer client.CloseIdleConnections()
	c := dial(t, s, "127.0.0.9")
	for range 3 {
		began := time.Now()
		short, stop := context.WithTimeout(ctx, 10*time.Second)
		if _, err := c.GetEvidence(short, &api.GetEvidenceRequest{Nonce: nonce}); err != nil {
			t.Errorf("a legitimate caller: %v", err)
		}
		stop()
		t.Logf("a legitimate caller waited %v", time.Since(began))
		resp, err := client.Post("http://"+s.Addresses().HTTP+api.EvidencePath, "text/plain", strings.NewReader("5a"))
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := io.ReadAll(resp.Body); !strings.Contains(string(data), "binding") {
			t.Errorf("by HTTP: %s", data)
		}
		resp.Body.Close()
	}
	cancel()
	wg.Wait()
}

// TestAdmin: health, readiness and metrics, which count by reason.
func TestAdmin(t *testing.T) {
	device := attestationtest.NewDevice("image")
	var fail atomic.Bool
	device.OnIssue = func(context.Context) error {
		if fail.Load() {
			return errors.New("broken")
		}
		return nil
	}
	s := serve(t, device, generous(), nil)
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + s.Addresses().Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(data)
	}
	c := dial(t, s, "")
	for _, broken := range []bool{true, false} {
		fail.Store(broken)
		c.GetEvidence(t.Context(), &api.GetEvidenceRequest{Nonce: nonce})
		want := map[bool]int{true: 503, false: 200}[broken]
		if code, text := get("/readyz"); code != want {
			t.Errorf("ready: %d, %s, want %d", code, text, want)
		}
		if code, _ := get("/healthz"); code != 200 {
			t.Errorf("healthy: %d", code)
		}
	}
	_, text := get("/metrics")
	for _, want := range []string{
		`constellation_verificationservice_requests_total{operation="evidence",reason="issue",transport="grpc"} 1`,
		`constellation_verificationservice_requests_total{operation="evidence",reason="",transport="grpc"} 1`,
		`constellation_verificationservice_tpm_duration_seconds_count{operation="evidence"} 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
