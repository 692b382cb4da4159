// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
)

// Environment variables that say where the command is, and where it finds the bundle.
const (
	commandEnv      = "CONSTELLATION_COMMAND"
	localClusterEnv = "CONSTELLATION_BUNDLE"
)

// Bounds on two busy processors without KVM.
const (
	upDeadline   = 20 * time.Minute
	podsDeadline = 10 * time.Minute
	bootTimeout  = 2 * time.Minute
)

// administrator runs the command as people do, in a folder of its own.
type administrator struct {
	dir  string
	port int
}

func newAdministrator(t *testing.T) *administrator {
	t.Helper()
	for _, name := range []string{commandEnv, localClusterEnv} {
		if err := resolve(name); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := &administrator{dir: filepath.Join(t.TempDir(), "cluster"), port: l.Addr().(*net.TCPAddr).Port}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(a.dir, "machines", "control-plane-1", "console.log"))
			t.Logf("the console's end:\n%s", text[max(0, len(text)-8<<10):])
		}
		a.run(t, "local", "down")
	})
	return a
}

// run runs one command and returns its output and exit code.
func (a *administrator) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), upDeadline)
	defer cancel()
	if args[0] == "local" {
		args = append(args, "--dir", a.dir)
	}
	cmd := exec.CommandContext(ctx, os.Getenv(commandEnv), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Dir = os.Getenv("TMPDIR")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// up brings the cluster up and returns its events.
func (a *administrator) up(t *testing.T) []progress.Event {
	t.Helper()
	stdout, stderr, code := a.run(t, "local", "up", "--api-port", strconv.Itoa(a.port), "--output", "json")
	if code != 0 {
		t.Fatalf("up ended with %d\n%s\n%s", code, stdout, stderr)
	}
	var events []progress.Event
	for line := range strings.Lines(stdout) {
		var e progress.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		t.Logf("%6.1f s  %-8s %-16s %s", e.Seconds, e.State, e.Step, e.Text)
		events = append(events, e)
	}
	if len(events) == 0 || events[len(events)-1].State != progress.Result {
		t.Fatal("the last event is no result")
	}
	return events
}

// awaitPods waits until the node is ready and every pod runs.
func (a *administrator) awaitPods(t *testing.T) {
	t.Helper()
	config, err := kubeclient.Config(filepath.Join(a.dir, "constellation-kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubeclient.New(config, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), podsDeadline)
	defer cancel()
	began, lacking := time.Now(), ""
	for ctx.Err() == nil {
		if lacking = lacks(ctx, client); lacking == "" {
			t.Logf("%6.1f s  all pods run", time.Since(began).Seconds())
			return
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("not everything runs: %s", lacking)
}

// lacks says what keeps the cluster from being complete, empty if nothing does.
func lacks(ctx context.Context, client rest.Interface) string {
	var nodes corev1.NodeList
	if err := client.Get().Resource("nodes").Do(ctx).Into(&nodes); err != nil {
		return err.Error()
	}
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "control-plane-1" {
		return "there is not the one node"
	}
	for _, c := range nodes.Items[0].Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return "the node is not ready: " + c.Message
		}
	}
	var pods corev1.PodList
	if err := client.Get().Resource("pods").Do(ctx).Into(&pods); err != nil {
		return err.Error()
	}
	if len(pods.Items) < 5 {
		return "there are hardly any pods"
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if !c.Ready {
				return p.Namespace + "/" + p.Name + " is not ready"
			}
		}
		if p.Status.Phase != corev1.PodRunning {
			return p.Namespace + "/" + p.Name + " is " + string(p.Status.Phase)
		}
	}
	return ""
}

// TestLocalCluster is docs/getting-started.md: a cluster from nothing, looked at, switched
// off and on, and removed without a trace.
func TestLocalCluster(t *testing.T) {
	a := newAdministrator(t)
	a.up(t)
	a.awaitPods(t)

	stdout, stderr, code := a.run(t, "local", "status", "--output", "json")
	var s supervisor.Status
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != 0 || len(s.Machines) != 1 {
		t.Fatalf("local status ended with %d, %v\n%s\n%s", code, err, stdout, stderr)
	}
	a.expectMember(t, s.Machines[0].Port)

	if _, stderr, code := a.run(t, "local", "up"); code != 0 || !strings.Contains(stderr, "is up already: nothing to do") {
		t.Errorf("up twice ended with %d\n%s", code, stderr)
	}

	// A power cut. Whoever has the master secret makes it go on.
	for _, verb := range []string{"stop", "start"} {
		if _, stderr, code := a.run(t, "local", verb, "control-plane-1"); code != 0 {
			t.Fatalf("%s ended with %d\n%s", verb, code, stderr)
		}
	}
	a.reinitialise(t, s.Machines[0].Port)
	a.awaitPods(t)

	if _, stderr, code := a.run(t, "local", "down"); code != 0 {
		t.Errorf("down ended with %d\n%s", code, stderr)
	}
	if _, err := os.Lstat(a.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	if err := childless(); err != nil {
		t.Error(err)
	}
}

// TestKilled: whoever kills the command and the process in the background with SIGKILL
// leaves no machine running, and nothing that down does not remove.
func TestKilled(t *testing.T) {
	a := newAdministrator(t)
	cmd := exec.Command(os.Getenv(commandEnv), "local", "up", "--api-port", strconv.Itoa(a.port), "--dir", a.dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(a.dir, "machines", "control-plane-1", "console.log")
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if text, err := os.ReadFile(console); err == nil && bytes.Contains(text, []byte("BdsDxe: starting")) {
			break
		}
		if time.Since(began) > bootTimeout {
			t.Fatal("the machine does not boot")
		}
	}
	text, err := os.ReadFile(filepath.Join(a.dir, "supervisor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Process.Kill(), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if err := childless(); err != nil {
		t.Error(err)
	}
	if _, stderr, code := a.run(t, "local", "status"); code != 2 || !strings.Contains(stderr, "is not running") {
		t.Errorf("status ended with %d\n%s", code, stderr)
	}
	if _, stderr, code := a.run(t, "local", "down"); code != 0 {
		t.Errorf("down ended with %d\n%s", code, stderr)
	}
	if _, err := os.Lstat(a.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

// files are the flags that name the cluster's files.
func (a *administrator) files() []string {
	return []string{"--config", filepath.Join(a.dir, "constellation.yaml"), "--master-secret", filepath.Join(a.dir, "constellation-master-secret.json")}
}

// expectMember verifies the node again: it is one of this cluster.
func (a *administrator) expectMember(t *testing.T, port uint16) {
	t.Helper()
	node := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	stdout, stderr, code := a.run(t, append([]string{"status", "--node", node}, a.files()...)...)
	if code != 0 || !strings.Contains(stdout, "it belongs to this cluster already") || !strings.Contains(stdout, "it is member") {
		t.Errorf("status ended with %d\n%s\n%s", code, stdout, stderr)
	}
}

// reinitialise sends the same Init again.
func (a *administrator) reinitialise(t *testing.T, port uint16) {
	t.Helper()
	args := append([]string{"init", "--node", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), "--node-name", "control-plane-1",
		"--init-secret", filepath.Join(a.dir, "constellation-init-secret"), "--kubeconfig", filepath.Join(a.dir, "constellation-kubeconfig"),
		"--server", net.JoinHostPort("127.0.0.1", strconv.Itoa(a.port))}, a.files()...)
	if stdout, stderr, code := a.run(t, args...); code != 0 {
		t.Fatalf("init ended with %d\n%s\n%s", code, stdout, stderr)
	}
	a.expectMember(t, port)
}
