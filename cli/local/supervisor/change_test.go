// SPDX-License-Identifier: Apache-2.0

package supervisor_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/cli/local/runnertest"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/provider"
)

// change writes another spec, and lets the supervisor know.
func (s *running) change(t *testing.T, change func(*supervisor.Spec)) {
	t.Helper()
	spec, err := s.dir.Spec()
	if err != nil {
		t.Fatal(err)
	}
	change(spec)
	if err := s.dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestNobodyToJoin: machines that are to join a cluster start once there is one, and are
// told of it.
func TestNobodyToJoin(t *testing.T) {
	dir := newDir(t, 2)
	spec, err := dir.Spec()
	if err != nil {
		t.Fatal(err)
	}
	cluster := spec.Cluster
	spec.Cluster = nil
	if err := dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	booted := make(chan string, 4)
	s := run(t, dir, &runnertest.Runner{OnBoot: func(_ context.Context, name string) error { booted <- name; return nil }})
	s.await(t, "control-plane-1", supervisor.StateRunning)
	s.await(t, "control-plane-2", supervisor.StateIdle)
	s.change(t, func(spec *supervisor.Spec) { spec.Cluster = cluster })
	s.await(t, "control-plane-2", supervisor.StateRunning)
	s.await(t, "control-plane-1", supervisor.StateRunning)
	if first, second := <-booted, <-booted; first != "control-plane-1" || second != "control-plane-2" || len(booted) > 0 {
		t.Errorf("%s booted, then %s, then %d more", first, second, len(booted))
	}
	text, err := os.ReadFile(dir.ConsoleFile("control-plane-2"))
	if err != nil || !strings.Contains(string(text), "I am to join "+cluster.ID) {
		t.Errorf("console is %q, %v", text, err)
	}
	// Nor are they started by any later change, if somebody stopped them.
	if err := s.client.Stop(t.Context(), "control-plane-2"); err != nil {
		t.Fatal(err)
	}
	s.change(t, func(*supervisor.Spec) {})
	s.await(t, "control-plane-2", supervisor.StateStopped)
}

// TestMachinesComeAndGo while others run on.
func TestMachinesComeAndGo(t *testing.T) {
	dir := newDir(t, 1)
	s := run(t, dir, &runnertest.Runner{})
	first := s.await(t, "control-plane-1", supervisor.StateRunning)
	s.change(t, func(spec *supervisor.Spec) { spec.Grow(provider.Worker, 2) })
	worker := s.await(t, "worker-1", supervisor.StateRunning)
	s.await(t, "worker-2", supervisor.StateRunning)
	if worker.Address != "10.77.0.50" || worker.Role != provider.Worker {
		t.Errorf("the new machine is %+v", worker)
	}
	s.change(t, func(spec *supervisor.Spec) { spec.Without("worker-1") })
	status, err := s.client.Status(t.Context())
	if err != nil || len(status.Machines) != 2 || status.Machines[0] != first || status.Machines[1].Name != "worker-2" {
		t.Errorf("then there are %+v, %v", status, err)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", worker.Port)); err == nil {
		conn.Close()
		t.Error("the forward to a machine that is gone is there")
	}
	if err := dir.RemoveMachine("worker-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir.MachineFolder("worker-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder is there: %v", err)
	}
	// A name that is free is given again, with nothing of its last owner.
	s.change(t, func(spec *supervisor.Spec) { spec.Grow(provider.Worker, 2) })
	s.await(t, "worker-1", supervisor.StateRunning)
}

func TestGrow(t *testing.T) {
	names := func(machines []supervisor.MachineSpec) (out []string) {
		for _, m := range machines {
			out = append(out, m.Name+" "+m.Address.String()+" "+m.MAC)
		}
		return out
	}
	s := &supervisor.Spec{Machines: supervisor.Machines(1, 3)}
	s.Without("worker-2")
	added := s.Grow(provider.Worker, 4)
	if diff := cmp.Diff([]string{"worker-2 10.77.0.51 52:54:00:4d:00:33", "worker-4 10.77.0.53 52:54:00:4d:00:35"}, names(added)); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	if again := s.Grow(provider.Worker, 3); again != nil || s.Count(provider.Worker) != 4 {
		t.Errorf("of four it made three: %v", again)
	}
	if first := s.First(); first.Name != "control-plane-1" || s.Machines[0] != first {
		t.Errorf("the first is %v", first)
	}
}

// TestCapture: the frames of a cluster's network are a file that ends whole.
func TestCapture(t *testing.T) {
	s := run(t, newDir(t, 1), &runnertest.Runner{})
	s.await(t, "control-plane-1", supervisor.StateRunning)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	file := &lockedBuffer{}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.client.Capture(ctx, file, func() { close(ready) }) }()
	<-ready
	s.change(t, func(spec *supervisor.Spec) { spec.Grow(provider.Worker, 1) })
	for began := time.Now(); !strings.Contains(file.String(), "GET /metadata/v1"); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("%d bytes without what was said", len(file.String()))
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := s.client.Capture(t.Context(), &endless{}, func() { s.kill() }); err == nil || !strings.Contains(err.Error(), "the cluster ended") {
		t.Errorf("a capture that was cut short: %v", err)
	}
}

// TestDial: this computer reaches any port of a machine, and only of a machine.
func TestDial(t *testing.T) {
	s := run(t, newDir(t, 1), &runnertest.Runner{})
	s.await(t, "control-plane-1", supervisor.StateRunning)
	raw, err := s.client.Dial(t.Context(), "control-plane-1", bootstrapper.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"constellation-atls/1"}})
	if err := conn.Handshake(); err != nil {
		t.Errorf("what is behind the port is not its bootstrapper: %v", err)
	}
	for _, tc := range []struct {
		machine string
		port    uint16
		says    string
	}{
		{"control-plane-1", 9, "connection was refused"},
		{"control-plane-1", 0, "want 1 to 65535"},
		{"control-plane-2", bootstrapper.Port, "no machine of that name"},
	} {
		if _, err := s.client.Dial(t.Context(), tc.machine, tc.port); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("port %d of %s: %v, want %q", tc.port, tc.machine, err, tc.says)
		}
	}
}

type endless struct{}

func (*endless) Write(p []byte) (int, error) { return len(p), nil }
