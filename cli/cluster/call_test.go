// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

func TestInit(t *testing.T) {
	w := newWorkspace(t)
	w.serve(t, w.device)
	if err := w.initialise(t); err != nil {
		t.Fatal(err)
	}
	_, requests := w.node.Calls()
	if len(requests) != 1 {
		t.Fatalf("%d requests", len(requests))
	}
	r := requests[0]
	if r.NodeName != "node-1" || !bytes.Equal(r.ComponentSet, components(t)) || r.Endpoint != "api.example.org:6443" || r.PodNetwork != "10.244.0.0/16" ||
		r.ServiceNetwork != "10.96.0.0/12" || r.ClusterName != "example" || len(r.Sources) != 1 || len(r.InitSecret) != 32 {
		t.Errorf("the request is %v", r)
	}
	events := strings.Join(w.events(t), ", ")
	for _, want := range []string{"verify started", "verify done", "init/lock started", "init/lock done", "init/node done", "kubeconfig done"} {
		if !strings.Contains(events, want) {
			t.Errorf("%q is not among %s", want, events)
		}
	}
	if strings.Index(events, "verify done") > strings.Index(events, "init/lock started") {
		t.Errorf("it was initialised before it was verified: %s", events)
	}
	info, err := os.Stat(w.plan.Kubeconfig)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info, err)
	}
	text, err := os.ReadFile(w.plan.Kubeconfig)
	if err != nil || !bytes.Contains(text, []byte("server: https://api.example.org:6443")) {
		t.Errorf("kubeconfig is %s, %v", text, err)
	}

	t.Run("again", func(t *testing.T) {
		if err := w.initialise(t); err != nil {
			t.Fatal(err)
		}
		if events := w.events(t); !strings.Contains(strings.Join(events, ", "), "init/lock skipped") {
			t.Errorf("events are %v", events)
		}
	})
}

func TestWrongInitSecret(t *testing.T) {
	w := newWorkspace(t)
	w.node.InitSecretHash[0] ^= 1
	w.serve(t, w.device)
	err := w.initialise(t)
	var failed *cluster.CallError
	if !errors.As(err, &failed) || failed.Reason != api.Problem_REASON_OWNER || !strings.Contains(err.Error(), "what to do: send the secret") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(w.plan.Kubeconfig); err == nil {
		t.Error("there is a kubeconfig")
	}
}

func TestAFailedStep(t *testing.T) {
	w := newWorkspace(t)
	w.node.OnStep = func(call int, step api.Step) error {
		if step != api.Step_STEP_DISK || call > 1 {
			return nil
		}
		return nodetest.Problem(codes.Internal, "no \x1b[2Jdisk", &api.Problem{
			Reason: api.Problem_REASON_STEP, Step: step, Advice: "attach one", Journal: []byte("the journal's end"),
		})
	}
	w.serve(t, w.device)
	err := w.initialise(t)
	var failed *cluster.CallError
	if !errors.As(err, &failed) || err.Error() != "init: step disk: no ?[2Jdisk\nwhat to do: attach one" || string(failed.Journal) != "the journal's end" {
		t.Fatalf("got %v", err)
	}
	// The same again continues.
	if err := w.initialise(t); err != nil {
		t.Fatal(err)
	}
	if events := strings.Join(w.events(t), ", "); !strings.Contains(events, "init/lock skipped, init/disk started, init/disk done") {
		t.Errorf("events are %s", events)
	}
}

// TestCutConnections: init goes on by itself after a connection broke, and with a node
// that is still at work for the call before.
func TestCutConnections(t *testing.T) {
	for name, failure := range map[string]error{
		"cut":  status.Error(codes.Unavailable, "the connection broke"),
		"busy": nodetest.Problem(codes.Aborted, "another Init is at work", &api.Problem{Reason: api.Problem_REASON_BUSY}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkspace(t)
			var failures atomic.Int32
			w.node.OnStep = func(_ int, step api.Step) error {
				if step == api.Step_STEP_DISK && failures.Add(1) <= 2 {
					return failure
				}
				return nil
			}
			w.serve(t, w.device)
			if err := w.initialise(t); err != nil {
				t.Fatal(err)
			}
			if _, requests := w.node.Calls(); len(requests) != 3 {
				t.Errorf("%d calls, want 3", len(requests))
			}
		})
	}
}

func TestASilentNode(t *testing.T) {
	w := newWorkspace(t)
	released := make(chan struct{})
	defer close(released)
	w.node.OnStep = func(call int, step api.Step) error {
		if call == 1 && step == api.Step_STEP_DISK {
			<-released
		}
		return nil
	}
	w.serve(t, w.device)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	node, err := cluster.Connect(ctx, w.plan.Node, attestationtest.Accept(w.device), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ring, err := keys.Load(w.plan.MasterSecret)
	if err != nil {
		t.Fatal(err)
	}
	master, err := ring.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := initsecret.Load(w.plan.InitSecret)
	if err != nil {
		t.Fatal(err)
	}
	var cuts []string
	_, err = node.Init(ctx, &api.InitRequest{InitSecret: secret, Keys: &api.InitRequest_MasterSecret{MasterSecret: master}},
		cluster.CallOptions{Silence: 200 * time.Millisecond, Cut: func(err error) { cuts = append(cuts, err.Error()) }})
	if want := []string{"the node has said nothing for 200ms"}; err != nil || !slices.Equal(cuts, want) {
		t.Errorf("cut for %q, want %q; %v", cuts, want, err)
	}
}

func TestAnotherClustersAnswer(t *testing.T) {
	w := newWorkspace(t)
	w.serve(t, w.device)
	if err := os.WriteFile(w.plan.Kubeconfig, nodetest.Kubeconfig("another cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.initialise(t); err == nil || !strings.Contains(err.Error(), "is not this cluster's kubeconfig and is not overwritten") {
		t.Errorf("got %v", err)
	}
}
