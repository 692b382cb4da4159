// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// TestNothingIsSent: to a machine that is not what it should be, whoever stands between.
func TestNothingIsSent(t *testing.T) {
	for _, tc := range []struct {
		name   string
		device func(*workspace) *attestationtest.Device
		want   attestation.Reason
	}{
		{"another TPM", func(*workspace) *attestationtest.Device { return attestationtest.NewDevice("image") }, attestation.ReasonIdentity},
		{"other measurements", func(w *workspace) *attestationtest.Device {
			other := *w.device
			other.Image = "another image"
			return &other
		}, attestation.ReasonMeasurements},
		{"another technology", func(w *workspace) *attestationtest.Device {
			other := *w.device
			other.Name = "other"
			return &other
		}, attestation.ReasonTechnology},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorkspace(t)
			w.serve(t, tc.device(w))
			err := w.initialise(t)
			var refused *cluster.RefusalError
			if !errors.As(err, &refused) || refused.Reason() != tc.want || !strings.Contains(err.Error(), "nothing was sent to it") {
				t.Errorf("got %v, want a refusal for %v", err, tc.want)
			}
			w.nothingSent(t)
		})
	}
	t.Run("an interceptor that relays evidence", func(t *testing.T) {
		w := newWorkspace(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.plan.Node = l.Addr().String()
		go w.node.Serve(t.Context(), l, relaying{w.device})
		err = w.initialise(t)
		var refused *cluster.RefusalError
		if !errors.As(err, &refused) || refused.Reason() != attestation.ReasonBinding {
			t.Errorf("got %v, want a refusal for %v", err, attestation.ReasonBinding)
		}
		w.nothingSent(t)
	})
	t.Run("no node at all", func(t *testing.T) {
		w := newWorkspace(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		w.plan.Node = l.Addr().String()
		var got bytes.Buffer
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.9\r\n")
			conn.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(&got, conn)
		}()
		err = w.initialise(t)
		var refused *cluster.RefusalError
		if !errors.As(err, &refused) || refused.Reason() != attestation.ReasonChannel {
			t.Errorf("got %v", err)
		}
		w.nothingSent(t)
	})
}

// relaying is one who ends the administrator's connection and has the real machine make
// evidence on another: the machine binds it to that one, and to no other.
type relaying struct{ *attestationtest.Device }

func (r relaying) Issue(ctx context.Context, _ attestation.Binding) (*attestation.Evidence, error) {
	var other attestation.Binding
	copy(other[:], "the connection of the interceptor with the machine")
	return r.Device.Issue(ctx, other)
}

// TestTheSameMachine: a machine that takes the place of the verified one is refused,
// though the policy would let it in.
func TestTheSameMachine(t *testing.T) {
	w := newWorkspace(t)
	twin := attestationtest.NewDevice("image")
	w.plan.Verifier = func(cluster.Trust) (attestation.Verifier, error) { return attestationtest.Accept(w.device, twin), nil }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.plan.Node = l.Addr().String()
	// One address, and at each connection another machine.
	nodes := [2]*nodetest.Node{{}, {}}
	hash := w.node.InitSecretHash
	cut := make(chan struct{})
	nodes[0].InitSecretHash, nodes[1].InitSecretHash = hash, hash
	nodes[0].Steps = []api.Step{api.Step_STEP_LOCK}
	nodes[0].OnStep = func(int, api.Step) error {
		close(cut)
		return status.Error(codes.Unavailable, "gone")
	}
	first, second := newPipe(l), newPipe(l)
	go nodes[0].Serve(t.Context(), first, w.device)
	go nodes[1].Serve(t.Context(), second, twin)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case <-cut:
				second.conns <- conn
			default:
				first.conns <- &severed{conn, cut}
				go func() { <-cut; conn.Close() }()
			}
		}
	}()
	err = w.initialise(t)
	var refused *cluster.RefusalError
	if !errors.As(err, &refused) || refused.Reason() != attestation.ReasonIdentity || !strings.Contains(err.Error(), "another machine than the one that was verified first") {
		t.Errorf("got %v", err)
	}
	if statuses, requests := nodes[1].Calls(); statuses != 0 || len(requests) != 0 {
		t.Errorf("the other machine was sent %d status calls and %d requests", statuses, len(requests))
	}
}

type severed struct {
	net.Conn
	cut chan struct{}
}

// pipe is a listener that is handed its connections.
type pipe struct {
	net.Listener
	conns chan net.Conn
}

func newPipe(l net.Listener) *pipe { return &pipe{l, make(chan net.Conn, 16)} }

func (p *pipe) Accept() (net.Conn, error) {
	conn, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p *pipe) Close() error { return nil }

func TestTrustHasBothStates(t *testing.T) {
	p, err := measurements.ParsePrediction(prediction(t))
	if err != nil {
		t.Fatal(err)
	}
	id := bytes.Repeat([]byte{7}, measurements.ClusterIDSize)
	untouched := &attestation.Claims{PCRs: p.PCRs}
	member := &attestation.Claims{PCRs: p.Initialized(id).PCRs}
	if got := cluster.StateOf(untouched, id); got != cluster.StateUntouched {
		t.Errorf("an untouched node: %s", got)
	}
	if got := cluster.StateOf(member, id); got != cluster.StateMember {
		t.Errorf("a node of the cluster: %s", got)
	}
	if got := cluster.StateOf(&attestation.Claims{}, id); got != cluster.StateUnknown {
		t.Errorf("a node without a TPM: %s", got)
	}
}
