// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

const patience = 20 * time.Second

const configText = `format: constellation-config/v1
name: example
provider: static
endpoint: api.example.org:6443
kubernetes:
  version: v1.37.2
  components: components.json
  sources: ["https://registry.example.org"]
  podNetwork: 10.244.0.0/16
  serviceNetwork: 10.96.0.0/12
attestation:
  measurements: [measurements.json]
  acceptedUntil: 2099-06-30
  inventory: machines.txt
`

// workspace is an administrator's folder, and a machine that waits.
type workspace struct {
	dir    string
	plan   cluster.InitPlan
	node   *nodetest.Node
	device *attestationtest.Device
	out    bytes.Buffer // JSON events
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	w := &workspace{dir: t.TempDir(), device: attestationtest.NewDevice("image")}
	at := func(name string) string { return filepath.Join(w.dir, name) }
	for name, text := range map[string][]byte{
		"constellation.yaml": []byte(configText), "components.json": components(t), "measurements.json": prediction(t),
		"machines.txt": []byte("node-1 control-plane " + strings.Repeat("5a", 32) + "\n"),
	} {
		if err := os.WriteFile(at(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Generate().Create(at("master.json")); err != nil {
		t.Fatal(err)
	}
	hash, err := initsecret.Create(at("secret"))
	if err != nil {
		t.Fatal(err)
	}
	w.node = &nodetest.Node{InitSecretHash: hash, Steps: []api.Step{api.Step_STEP_LOCK, api.Step_STEP_DISK, api.Step_STEP_NODE}}
	w.plan = cluster.InitPlan{
		Config: at("constellation.yaml"), MasterSecret: at("master.json"), InitSecret: at("secret"), NodeName: "node-1", Kubeconfig: at("kubeconfig"),
		Verifier: func(cluster.Trust) (attestation.Verifier, error) { return attestationtest.Accept(w.device), nil },
	}
	return w
}

// components is the encoding of a component set.
func components(t *testing.T) []byte {
	t.Helper()
	return bundletest.Small(t).Set().Encode()
}

// prediction is that of an image which is not one.
func prediction(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"disk.raw": artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()}),
		"code.fd":  artifacttest.FirmwareCode(), "vars.fd": artifacttest.FirmwareVariables(),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := predict.FromFiles(predict.Files{
		Disk: filepath.Join(dir, "disk.raw"), FirmwareCode: filepath.Join(dir, "code.fd"), FirmwareVariables: filepath.Join(dir, "vars.fd"),
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// serve starts the node at an address of its own, with some device.
func (w *workspace) serve(t *testing.T, device *attestationtest.Device) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.plan.Node = l.Addr().String()
	go w.node.Serve(t.Context(), l, device)
}

// initialise runs init, with events as JSON.
func (w *workspace) initialise(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	sub := &cobra.Command{Use: "sub", RunE: func(cmd *cobra.Command, _ []string) error {
		r, reporterErr := progress.New(cmd)
		if reporterErr != nil {
			return reporterErr
		}
		err = cluster.Initialise(cmd.Context(), r, w.plan)
		return nil
	}}
	command.Run(ctx, command.New(sub), []string{"sub", "--output", "json"}, &w.out, io.Discard)
	return err
}

// events are those that were reported, by step and state.
func (w *workspace) events(t *testing.T) (out []string) {
	t.Helper()
	for line := range strings.Lines(w.out.String()) {
		var e progress.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e.Step+" "+string(e.State))
	}
	return out
}

// nothingSent fails if a call of the node was reached with anything in it.
func (w *workspace) nothingSent(t *testing.T) {
	t.Helper()
	if statuses, requests := w.node.Calls(); statuses != 0 || len(requests) != 0 {
		t.Errorf("the node was sent %d status calls and %d requests", statuses, len(requests))
	}
	if _, err := os.Stat(w.plan.Kubeconfig); err == nil {
		t.Error("there is a kubeconfig")
	}
}

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

func TestWrongInitSecret(t *testing.T) {
	w := newWorkspace(t)
	w.node.InitSecretHash[0] ^= 1
	w.serve(t, w.device)
	err := w.initialise(t)
	var failed *cluster.InitError
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
	var failed *cluster.InitError
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
	cut := 0
	_, err = node.Init(ctx, &api.InitRequest{InitSecret: secret, Keys: &api.InitRequest_MasterSecret{MasterSecret: master}},
		cluster.InitOptions{Silence: 200 * time.Millisecond, Cut: func(error) { cut++ }})
	if err != nil || cut != 1 {
		t.Errorf("cut %d times, %v", cut, err)
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
