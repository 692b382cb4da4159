// SPDX-License-Identifier: Apache-2.0

package supervisor_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/local/runnertest"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/measurements"
)

const patience = 20 * time.Second

// newDir makes the folder of a cluster with so many control planes.
func newDir(t *testing.T, machines int) supervisor.Dir {
	t.Helper()
	dir := supervisor.Dir(filepath.Join(t.TempDir(), strings.Repeat("long", 30))) // longer than a socket's path may be
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	s := &supervisor.Spec{
		Name: "test", Disk: "/disk", FirmwareCode: "/code", FirmwareVars: "/vars", Bundle: "/bundle", Shape: measurements.QEMU(), StateDiskGiB: 1,
		Machines: supervisor.Machines(machines, 0), APIPort: uint16(free.Addr().(*net.TCPAddr).Port), Endpoint: supervisor.Endpoint(),
		InitSecretHash: strings.Repeat("5a", 32),
		Cluster:        &supervisor.ClusterSpec{ID: strings.Repeat("c1", 32), Policy: []byte(`{"version":1}`)},
	}
	if err := dir.WriteSpec(s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// running is a supervisor in this process.
type running struct {
	dir    supervisor.Dir
	client *supervisor.Client
	log    *lockedBuffer
	kill   func()
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func run(t *testing.T, dir supervisor.Dir, r *runnertest.Runner) *running {
	t.Helper()
	if r.Device == nil {
		r.Device = attestationtest.NewDevice("image")
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &running{dir: dir, client: supervisor.NewClient(dir), log: &lockedBuffer{}, kill: cancel, ended: make(chan error, 1)}
	go func() {
		s.ended <- supervisor.Run(ctx, dir, supervisor.Options{Runner: r, Log: s.log, Bundle: func(folder string) (http.Handler, error) {
			return http.FileServer(http.Dir(folder)), nil
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the supervisor's log:\n%s", s.log)
		}
	})
	return s
}

// await waits until a machine is in a state.
func (s *running) await(t *testing.T, name string, want supervisor.State) supervisor.MachineStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last string
	for ctx.Err() == nil {
		status, err := s.client.Status(ctx)
		if err == nil {
			for _, m := range status.Machines {
				if m.Name == name && m.State == want {
					return m
				}
				last = fmt.Sprintf("%+v", status)
			}
		} else {
			last = err.Error()
		}
		select {
		case err := <-s.ended:
			t.Fatalf("the supervisor ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("%s is not %s: %s", name, want, last)
	return supervisor.MachineStatus{}
}

func (s *running) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if s.dir.Running() {
		t.Error("it ended, and has the folder")
	}
}

func TestLifecycle(t *testing.T) {
	dir := newDir(t, 2)
	s := run(t, dir, &runnertest.Runner{})
	first := s.await(t, "control-plane-1", supervisor.StateRunning)
	second := s.await(t, "control-plane-2", supervisor.StateRunning)
	if first.Port == second.Port || first.Address != "10.77.0.10" || second.Address != "10.77.0.11" {
		t.Errorf("machines are %+v, %+v", first, second)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", first.Port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if info, err := os.Stat(filepath.Join(string(dir), "control.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	text, err := os.ReadFile(dir.ConsoleFile("control-plane-2"))
	if err != nil || !strings.Contains(string(text), "I am control-plane-2, control-plane of api.constellation.internal:6443") {
		t.Errorf("console is %q, %v", text, err)
	}

	t.Run("a second one", func(t *testing.T) {
		if err := supervisor.Run(t.Context(), dir, supervisor.Options{Runner: &runnertest.Runner{}, Log: io.Discard}); err == nil || !strings.Contains(err.Error(), "supervisor is running") {
			t.Errorf("got %v", err)
		}
		if err := dir.Remove(); err == nil || !strings.Contains(err.Error(), "supervisor is running") {
			t.Errorf("the folder of a running cluster was removed: %v", err)
		}
	})

	waited := make(chan error, 1)
	go func() { waited <- s.client.Wait(t.Context()) }()
	if err := s.client.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitEnd(t)
	if err := <-waited; err != nil {
		t.Errorf("who waited for the end: %v", err)
	}
	if _, err := s.client.Status(t.Context()); !errors.Is(err, supervisor.ErrNotRunning) {
		t.Errorf("status after the end: %v", err)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", first.Port)); err == nil {
		conn.Close()
		t.Error("the forward is there after the end")
	}
	if err := dir.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

func TestStopAndStart(t *testing.T) {
	s := run(t, newDir(t, 1), &runnertest.Runner{})
	const name = "control-plane-1"
	s.await(t, name, supervisor.StateRunning)
	for _, step := range []struct {
		do    func(context.Context, string) error
		want  supervisor.State
		twice string
	}{
		{s.client.Stop, supervisor.StateStopped, "stop control-plane-1: it is not running: not possible now"},
		{s.client.Start, supervisor.StateRunning, "start control-plane-1: it is running: not possible now"},
	} {
		if err := step.do(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		s.await(t, name, step.want)
		if err := step.do(t.Context(), name); err == nil || err.Error() != step.twice {
			t.Errorf("twice: %v", err)
		}
	}
	if err := s.client.Start(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "no machine of that name") {
		t.Errorf("a machine that is not there: %v", err)
	}
}

// TestMachinesThatEnd: a restart is followed, a shutdown is accepted, all else is a
// failure with its reason.
func TestMachinesThatEnd(t *testing.T) {
	var boots atomic.Int32
	s := run(t, newDir(t, 1), &runnertest.Runner{OnBoot: func(context.Context, string) error { boots.Add(1); return nil }})
	const name = "control-plane-1"
	s.await(t, name, supervisor.StateRunning)
	s.typeInto(t, name, "reboot")
	for boots.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	s.await(t, name, supervisor.StateRunning)
	s.typeInto(t, name, "poweroff")
	if m := s.await(t, name, supervisor.StateStopped); m.Reason != "it switched itself off" {
		t.Errorf("after a shutdown: %+v", m)
	}
	if err := s.client.Start(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	s.await(t, name, supervisor.StateRunning)
	s.typeInto(t, name, "panic")
	if m := s.await(t, name, supervisor.StateFailed); m.Reason != "it ended by itself: guest-panic" {
		t.Errorf("after a panic: %+v", m)
	}
	if n := boots.Load(); n != 3 {
		t.Errorf("%d boots, want 3", n)
	}
}

// typeInto types a line and waits for the console to show it.
func (s *running) typeInto(t *testing.T, name, line string) {
	t.Helper()
	conn, err := s.client.Console(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if lines.Text() == "you typed "+line {
			return
		}
	}
	t.Fatalf("the console does not repeat %q: %v", line, lines.Err())
}

func TestConsoleOfAMachineThatIsOff(t *testing.T) {
	s := run(t, newDir(t, 1), &runnertest.Runner{OnBoot: func(context.Context, string) error { return errors.New("it is broken") }})
	if m := s.await(t, "control-plane-1", supervisor.StateFailed); m.Reason != "it is broken" {
		t.Errorf("it failed with %q", m.Reason)
	}
	if _, err := s.client.Console(t.Context(), "control-plane-1"); err == nil || !strings.Contains(err.Error(), "it is not running") {
		t.Errorf("got %v", err)
	}
}

// TestMachinesBootInTurn: two that boot at once on few processors starve each other.
func TestMachinesBootInTurn(t *testing.T) {
	var at, most atomic.Int32
	s := run(t, newDir(t, 3), &runnertest.Runner{OnBoot: func(context.Context, string) error {
		most.Store(max(most.Load(), at.Add(1)))
		time.Sleep(20 * time.Millisecond)
		at.Add(-1)
		return nil
	}})
	s.await(t, "control-plane-3", supervisor.StateRunning)
	s.await(t, "control-plane-1", supervisor.StateRunning)
	if most.Load() != 1 {
		t.Errorf("%d machines booted at once", most.Load())
	}
}

// TestEndDuringABoot: nobody waits for a boot that is not wanted any more.
func TestEndDuringABoot(t *testing.T) {
	booting := make(chan struct{}, 1)
	s := run(t, newDir(t, 2), &runnertest.Runner{OnBoot: func(ctx context.Context, _ string) error {
		booting <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}})
	<-booting
	s.kill()
	s.awaitEnd(t)
}

// TestLeftovers: a supervisor that was killed leaves its socket and lock file, and is no
// obstacle.
func TestLeftovers(t *testing.T) {
	dir := newDir(t, 1)
	for _, name := range []string{"control.sock", "supervisor.pid"} {
		if err := os.WriteFile(filepath.Join(string(dir), name), []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := supervisor.NewClient(dir).Status(t.Context()); !errors.Is(err, supervisor.ErrNotRunning) {
		t.Errorf("status: %v", err)
	}
	s := run(t, dir, &runnertest.Runner{})
	s.await(t, "control-plane-1", supervisor.StateRunning)
}

func TestBusyPort(t *testing.T) {
	dir := newDir(t, 1)
	spec, err := dir.Spec()
	if err != nil {
		t.Fatal(err)
	}
	// If somebody else has it, it is as busy.
	if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", spec.APIPort)); err == nil {
		defer l.Close()
	} else if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	s := run(t, dir, &runnertest.Runner{})
	if err := <-s.ended; err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("got %v", err)
	}
}

func TestFoldersOfOthers(t *testing.T) {
	dir := supervisor.Dir(t.TempDir())
	if p, err := dir.Presence(); p != supervisor.Absent || err != nil {
		t.Errorf("an empty folder: %v, %v", p, err)
	}
	precious := filepath.Join(string(dir), "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Presence(); !errors.Is(err, supervisor.ErrForeign) {
		t.Errorf("another's folder: %v", err)
	}
	if err := dir.Remove(); !errors.Is(err, supervisor.ErrForeign) {
		t.Errorf("another's folder: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestSpec(t *testing.T) {
	dir := newDir(t, 1)
	path := filepath.Join(string(dir), "cluster.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, new, refusal string }{
		{"another version", "constellation-local/v1", "constellation-local/v2", `this program reads "constellation-local/v1"`},
		{"an unknown field", `"api_port"`, `"api_prot"`, `unknown field "api_prot"`},
		{"a name that is a path", `"name": "control-plane-1"`, `"name": "../../x"`, `name "../../x"`},
		{"an option for QEMU", `"pc-q35-10.0"`, `"pc,kernel=x"`, `board "pc,kernel=x"`},
		{"half a hash", strings.Repeat("5a", 32), "5a", "want 64 hexadecimal digits"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := bytes.Replace(good, []byte(tc.old), []byte(tc.new), 1)
			if bytes.Equal(bad, good) {
				t.Fatal("nothing was changed")
			}
			if _, err := supervisor.ParseSpec(bad); err == nil || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("got %v, want an error with %q", err, tc.refusal)
			}
		})
	}
}

// TestConsolesAreBounded: a machine that prints for ever fills no disk.
func TestConsolesAreBounded(t *testing.T) {
	dir := newDir(t, 1)
	s := run(t, dir, &runnertest.Runner{})
	const name = "control-plane-1"
	s.await(t, name, supervisor.StateRunning)
	conn, err := s.client.Console(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seen := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(conn)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			if lines.Text() == "you typed the last" {
				seen <- true
				return
			}
		}
		if err := lines.Err(); err != nil {
			t.Log(err)
		}
		seen <- false
	}()
	for range 18 {
		if _, err := io.WriteString(conn, strings.Repeat("x", 1<<20)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, "the last\n"); err != nil {
		t.Fatal(err)
	}
	if !<-seen {
		t.Fatal("the console does not repeat the last line")
	}
	now, err := os.Stat(dir.ConsoleFile(name))
	if err != nil {
		t.Fatal(err)
	}
	older, err := os.Stat(dir.OlderConsoleFile(name))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 8<<20 + 2<<20
	if now.Size() > limit || older.Size() > limit {
		t.Errorf("files of %d and %d bytes", now.Size(), older.Size())
	}
	text, err := os.ReadFile(dir.ConsoleFile(name))
	if err != nil || !strings.Contains(string(text), "you typed the last") {
		t.Errorf("the end is missing: %v", err)
	}
}
