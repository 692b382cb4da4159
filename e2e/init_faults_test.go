// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// A source of components that is not always good.
type source struct {
	good  http.Handler
	fault atomic.Pointer[http.HandlerFunc] // in place of it, or nil
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := s.fault.Load(); f != nil {
		(*f)(w, r)
		return
	}
	s.good.ServeHTTP(w, r)
}

// with has the source answer so for as long as f takes.
func (s *source) with(fault http.HandlerFunc, f func()) {
	s.fault.Store(&fault)
	defer s.fault.Store(nil)
	f()
}

// TestInitFaults goes with one machine through what can go wrong on the way to a
// cluster. After each fault the same machine, and in the end the same request, goes on.
func TestInitFaults(t *testing.T) {
	if !*campaign {
		t.Skip("a boot for each step: run it with -campaign")
	}
	f := newFounder(t)
	m := f.boot(t)
	if !t.Run("before it is anybody's", func(t *testing.T) { f.refusals(t) }) ||
		!t.Run("components", func(t *testing.T) { f.badSources(t) }) {
		t.FailNow()
	}
	m.Stop()
	f.powerCuts(t)

	f.boot(t)
	result, err := f.init(t, false)
	if err != nil {
		t.Fatal(err)
	}
	f.lookAround(t, result)
	t.Run("another Init", func(t *testing.T) {
		other := proto.CloneOf(f.request)
		other.ServiceNetwork = "10.97.0.0/16"
		f.refused(t, other, true, api.Problem_REASON_OTHER_CLUSTER, "other settings")
	})
}

// refused wants the node to refuse a request for a reason, with words.
func (f *founder) refused(t *testing.T, request *api.InitRequest, owned bool, reason api.Problem_Reason, says string) {
	t.Helper()
	conn := f.connect(t, f.expected(t, owned))
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), initDeadline)
	defer cancel()
	_, err := f.send(ctx, t, conn, request, func(*api.Progress) {})
	if p := bootstrapper.ProblemOf(err); p.GetReason() != reason || p.GetAdvice() == "" || !strings.Contains(status.Convert(err).Message(), says) {
		t.Errorf("got %v, %v, want %v that says %q", err, p, reason, says)
	}
}

// refusals are those after which nothing has happened: the machine is nobody's.
func (f *founder) refusals(t *testing.T) {
	change := func(edit func(*api.InitRequest)) *api.InitRequest {
		r := proto.CloneOf(f.request)
		edit(r)
		return r
	}
	set := func(edit func(*componentset.Set)) *api.InitRequest {
		s, err := componentset.Parse(f.request.ComponentSet)
		if err != nil {
			t.Fatal(err)
		}
		edit(s)
		return change(func(r *api.InitRequest) { r.ComponentSet = s.Encode() })
	}
	for _, tc := range []struct {
		name    string
		request *api.InitRequest
		reason  api.Problem_Reason
		says    string
	}{
		{"wrong init secret", change(func(r *api.InitRequest) { r.InitSecret = bytes.Repeat([]byte{1}, 32) }), api.Problem_REASON_OWNER, "not the owner's"},
		{"unknown version of Kubernetes", set(func(s *componentset.Set) { s.Kubernetes = "v1.99.0" }), api.Problem_REASON_REQUEST, "1.99"},
		{"a component is missing", set(func(s *componentset.Set) {
			kept := s.Components[:0:0]
			for _, c := range s.Components {
				if c.Name != "etcd" {
					kept = append(kept, c)
				}
			}
			s.Components = kept
		}), api.Problem_REASON_REQUEST, "it has no image etcd"},
		{"networks that overlap", change(func(r *api.InitRequest) { r.ServiceNetwork = r.PodNetwork }), api.Problem_REASON_REQUEST, "overlap"},
	} {
		t.Run(tc.name, func(t *testing.T) { f.refused(t, tc.request, false, tc.reason, tc.says) })
	}
	t.Run("wrong measurements", func(t *testing.T) {
		// An owner who expects the machine to be this cluster's already.
		f.neverSent(t, f.expected(t, true), f.dial, attestation.ReasonMeasurements)
	})
	t.Run("an interceptor", func(t *testing.T) {
		f.neverSent(t, f.expected(t, false), f.intercepted(t), attestation.ReasonBinding)
	})
}

// neverSent wants the handshake to end with a refusal, and so the request to stay here.
func (f *founder) neverSent(t *testing.T, p *measurements.Prediction, dial func(context.Context, string) (net.Conn, error), want attestation.Reason) {
	t.Helper()
	outcomes := make(chan error, 100)
	conn := f.connectBy(t, p, dial, func(err error) { outcomes <- err })
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		_, err := f.send(ctx, t, conn, f.request, func(*api.Progress) { t.Error("the machine works on the request") })
		sent <- err
	}()
	select {
	case err := <-outcomes:
		if attestation.ReasonOf(err) != want {
			t.Errorf("the handshake ended with %v, want %v", err, want)
		}
	case <-time.After(answerDeadline):
		t.Error("no handshake")
	}
	cancel()
	if err := <-sent; err == nil {
		t.Error("the request was answered")
	}
}

// intercepted dials through somebody who ends the owner's TLS and opens another to the
// machine, and passes everything on.
func (f *founder) intercepted(t *testing.T) func(context.Context, string) (net.Conn, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	t.Cleanup(relays.Wait)
	return func(ctx context.Context, target string) (net.Conn, error) {
		machine, err := f.dial(ctx, target)
		if err != nil {
			return nil, err
		}
		owner, front := net.Pipe()
		config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{channelProtocol}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		toOwner := tls.Server(front, config)
		toMachine := tls.Client(machine, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: config.NextProtos, InsecureSkipVerify: true})
		relays.Go(func() { io.Copy(toMachine, toOwner); machine.Close() })
		relays.Go(func() { io.Copy(toOwner, toMachine); front.Close() })
		return owner, nil
	}
}

// channelProtocol is what an interceptor has to say to either side (docs/atls.md).
const channelProtocol = "constellation-atls/1"

// badSources fails the step after the disk was formatted, twice, and cuts the network in
// the middle of a download, which then goes on.
func (f *founder) badSources(t *testing.T) {
	flipped := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		f.bundle.good.ServeHTTP(recorder, r)
		body := recorder.Body.Bytes()
		if len(body) > 1000 {
			body[len(body)/2] ^= 1
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		w.Write(body)
	})
	t.Run("a flipped bit", func(t *testing.T) {
		f.bundle.with(flipped, func() { f.refused(t, f.request, false, api.Problem_REASON_STEP, "digest") })
	})
	t.Run("nothing there", func(t *testing.T) {
		f.bundle.with(http.NotFound, func() { f.refused(t, f.request, true, api.Problem_REASON_STEP, "no source delivers") })
	})
	t.Run("the network is cut in the middle", func(t *testing.T) {
		var served atomic.Int64
		cut := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.bundle.good.ServeHTTP(&limited{ResponseWriter: w, left: 8 << 20, served: &served}, r)
		})
		conn := f.connect(t, f.expected(t, true))
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), initDeadline)
		defer cancel()
		var err error
		f.bundle.with(cut, func() {
			_, err = f.send(ctx, t, conn, f.request, func(p *api.Progress) {
				if p.Step == api.Step_STEP_RUNTIME {
					cancel() // far enough
				}
			})
		})
		if ctx.Err() == nil || err == nil {
			t.Errorf("the download did not go on: %v", err)
		}
		if served.Load() < 64<<20 {
			t.Errorf("%d bytes were served", served.Load())
		}
	})
}

// limited breaks the connection after some bytes of an answer.
type limited struct {
	http.ResponseWriter
	left   int
	served *atomic.Int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		panic(http.ErrAbortHandler)
	}
	l.served.Add(int64(len(p)))
	return l.ResponseWriter.Write(p)
}

// powerCuts cuts the machine's power at the beginning of every step, one after the
// other. (V20)
func (f *founder) powerCuts(t *testing.T) {
	for step := api.Step_STEP_LOCK; step <= api.Step_STEP_NODE; step++ {
		if !t.Run("power cut at "+steps.Name(step), func(t *testing.T) {
			m, cut := f.boot(t), false
			conn := f.connect(t, f.expected(t, false))
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), initDeadline)
			defer cancel()
			_, err := f.send(ctx, t, conn, f.request, func(p *api.Progress) {
				if p.Step == step && p.State == api.Progress_STATE_STARTED {
					cut = true
					m.Stop()
					cancel() // nobody is there who would end the connection
				}
			})
			if err == nil || !cut {
				t.Errorf("the power was not cut: %v", err)
			}
		}) {
			t.FailNow()
		}
	}
}
