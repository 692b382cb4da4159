// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/services/verificationservice"
)

// serve runs the service for a device until the test ends.
func serve(t *testing.T, d *attestationtest.Device) string {
	t.Helper()
	any := "127.0.0.1:0"
	s, err := verificationservice.Listen(verificationservice.Addresses{GRPC: any, HTTP: any, Admin: any}, d, verificationservice.DefaultLimits(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
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
	return s.Addresses().GRPC
}

// TestNodesTogether: what no node alone shows. Devices are granted the names device-0,
// device-1 and so on.
func TestNodesTogether(t *testing.T) {
	var devices []*attestationtest.Device
	var addresses []string
	for range 3 {
		d := attestationtest.NewDevice("image")
		devices, addresses = append(devices, d), append(addresses, serve(t, d))
	}
	again := serve(t, devices[0]) // the first device, at another place
	policy := attestationtest.Accept(devices...)
	policy.Rounds = 1
	gone := "127.0.0.1:1"
	for _, tc := range []struct {
		name, verdict string
		args, want    []string
	}{
		{"all", verified, []string{"device-0=" + addresses[0], "device-1=" + addresses[1], "device-2=" + addresses[2]}, []string{verified, verified, verified}},
		{"without names", verified, []string{addresses[2], addresses[0]}, []string{verified, verified}},
		{"one is down", refused, []string{"device-0=" + addresses[0], "device-1=" + gone}, []string{verified, reasonUnreachable}},
		{"one machine twice", refused, []string{addresses[0], addresses[1], again}, []string{reasonDuplicate, verified, reasonDuplicate}},
		{"one machine in another's place", refused, []string{"device-0=" + addresses[0], "device-1=" + again}, []string{verified, reasonOtherNode}},
		{"two that changed places", refused, []string{"device-0=" + addresses[1], "device-1=" + addresses[0]}, []string{reasonOtherNode, reasonOtherNode}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes, err := parseNodes(tc.args)
			if err != nil {
				t.Fatal(err)
			}
			results, err := ask(t.Context(), nodes, policy, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			r := &report{Nodes: results}
			r.judge(nil, false)
			var got []string
			for _, n := range r.Nodes {
				if n.Verdict == verified {
					got = append(got, verified)
				} else {
					got = append(got, n.Reason)
				}
				if (n.Verdict == verified) != (n.Claims != nil) || (n.Verdict != verified) != (n.Detail != "" && n.Next != "") {
					t.Errorf("%s: %+v", n.Name, n)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || r.Verdict != tc.verdict {
				t.Errorf("%s: %s", r.Verdict, diff)
			}
		})
	}
}

// TestInterrupted: the command ends at once, and says nothing about the nodes.
func TestInterrupted(t *testing.T) {
	d := attestationtest.NewDevice("image")
	ctx, cancel := context.WithCancel(t.Context())
	d.OnIssue = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	nodes, err := parseNodes([]string{serve(t, d)})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := ask(ctx, nodes, attestationtest.Accept(d), time.Minute); err != context.Canceled || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// api is what an API server says at each path. It is one that may lie.
func fakeAPI(t *testing.T, pages map[string]string) (kubeconfig string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(page))
	}))
	t.Cleanup(s.Close)
	config, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": s.URL}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

const (
	nodesPath = "/api/v1/nodes"
	podsPath  = "/api/v1/namespaces/kube-system/pods"
)

// TestListNodes: each node once, with the pod that serves it now, or with none.
func TestListNodes(t *testing.T) {
	kubeconfig := fakeAPI(t, map[string]string{
		nodesPath: `{"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b\u001b[31m"}}, {"metadata": {"name": "c"}}]}`,
		podsPath: `{"items": [
			{"metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}},
			{"metadata": {"name": "vs-1/../x"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}},
			{"metadata": {"name": "vs-2"}, "spec": {"nodeName": "c"}, "status": {"phase": "Pending"}},
			{"metadata": {"name": "vs-3"}, "spec": {"nodeName": "elsewhere"}, "status": {"phase": "Running"}}]}`,
	})
	nodes, err := listNodes(t.Context(), kubeconfig)
	if err != nil || len(nodes) != 3 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	if nodes[0].name != "a" || !strings.HasSuffix(nodes[0].endpoint, podsPath+"/http:vs-1%2F..%2Fx:9447/proxy") || !nodes[0].named {
		t.Errorf("%+v", nodes[0])
	}
	if nodes[1].name != "b?[31m" || nodes[1].client != nil || nodes[2].client != nil {
		t.Errorf("%+v, %+v", nodes[1], nodes[2])
	}
	results, err := ask(t.Context(), nodes, attestationtest.Accept(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{Nodes: results}
	r.judge(nil, false)
	if r.Nodes[0].Reason != "malformed" || r.Nodes[1].Reason != reasonUnreachable || !strings.Contains(r.Nodes[1].Detail, "no VerificationService runs on it") {
		t.Errorf("%+v, %+v", r.Nodes[0], r.Nodes[1])
	}
}

func TestListNodesRefuses(t *testing.T) {
	one := `{"items": [{"metadata": {"name": "a"}}]}`
	for name, tc := range map[string]struct {
		pages map[string]string
		want  string
	}{
		"no nodes":       {map[string]string{nodesPath: `{"items": []}`, podsPath: one}, "the API server lists no node"},
		"not JSON":       {map[string]string{nodesPath: `<html>`}, "list the nodes: the list is not JSON"},
		"no such page":   {nil, "list the nodes: the API server says 404"},
		"no pods":        {map[string]string{nodesPath: one}, "list the pods of VerificationService: the API server says 404"},
		"too many nodes": {map[string]string{nodesPath: `{"items": [` + strings.Repeat(`{},`, maxNodes) + `{}]}`}, "5001 objects, at most 5000"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := listNodes(t.Context(), fakeAPI(t, tc.pages)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := listNodes(t.Context(), "nowhere"); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("no kubeconfig: %v", err)
	}
}

// TestReport: what people read, of each kind of verdict.
func TestReport(t *testing.T) {
	d := attestationtest.NewDevice("image 1")
	policy := attestationtest.Accept(d)
	nodes, err := parseNodes([]string{"device-0=" + serve(t, d), "device-9=127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	results, err := ask(t.Context(), nodes, policy, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{Nodes: results, Cluster: bytes.Repeat([]byte{0xc1}, 32), Unseen: []string{"device-7"}}
	r.judge(nil, false)
	var out bytes.Buffer
	if err := r.writeText(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"NODE      VERDICT    REASON       BOOTED", "device-0  verified   -            image 1",
		"device-9  no-answer  unreachable  -", "\ndevice-0 at 127.0.0.1:", "  inventory   device-0, worker\n",
		"\ndevice-9 at 127.0.0.1:1: no-answer: unreachable\n", "  what to do: see whether the machine runs",
		"not seen: device-7, which the policy's inventory lists", "\nrefused: 1 of 2 nodes have proven", strings.Repeat("c1", 32),
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %q:\n%s", want, out.String())
		}
	}
}
