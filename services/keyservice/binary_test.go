// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package keyservice_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/keyservice"
	"github.com/constellation-os/constellation/services/keyservice/client"
)

var load = flag.Duration("load", 0, "how long TestLoad puts load on the service; not at all by default")

// The limits of the service under load: 64 callers on 2 processors.
const (
	callers   = 64
	minRate   = 5000
	maxP99    = 10 * time.Millisecond
	maxMemory = 48 << 10 // KiB
)

// program is KeyService as it ships, in a process of its own.
type program struct {
	cmd     *exec.Cmd
	address string
	done    chan error
}

// start runs the program; its log goes where an audit log goes, to a file.
func (d *deployment) start(t *testing.T, config keyservice.Config) *program {
	t.Helper()
	path := os.Getenv("CONSTELLATION_KEYSERVICE")
	if path == "" {
		t.Fatal("CONSTELLATION_KEYSERVICE does not name the program")
	}
	dir := t.TempDir()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "config.json")
	if err := os.WriteFile(configFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &program{cmd: exec.Command(path, "-config", configFile), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { p.cmd.Process.Kill() })
	p.address = listening(t, log.Name())
	return p
}

// listening waits for the line that says where the service listens.
func listening(t *testing.T, path string) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "keyservice listens" {
				f.Close()
				return line.Address
			}
		}
		f.Close()
		time.Sleep(10 * time.Millisecond)
	}
	data, _ := os.ReadFile(path)
	t.Fatalf("the service does not listen: %s", data)
	return ""
}

func (d *deployment) ask(t *testing.T, address, token string) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Target: address, ServerName: serverName, CAFile: d.CAFile(), TokenFile: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (d *deployment) held(t *testing.T) keyservice.Config {
	t.Helper()
	config := d.config
	config.MasterSecret = filepath.Join(t.TempDir(), "master.json")
	if err := keys.Generate().Create(config.MasterSecret); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestProgram: as it ships, it answers, ends in order, and gives the same keys
// after it was killed with requests under way.
func TestProgram(t *testing.T) {
	d := deploy(t)
	config := d.held(t)
	token := d.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)
	p := d.start(t, config)
	first, err := ask(t, d.ask(t, p.address, token))
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps are not forbidden: %v\n%s", err, limits)
	}

	var wg sync.WaitGroup
	c := d.ask(t, p.address, token)
	var mu sync.Mutex
	answered := map[keys.Class]int{}
	for range 16 {
		wg.Go(func() {
			for {
				k, err := keys.Get[keys.StateDisk](t.Context(), c, diskID, 32, 0)
				mu.Lock()
				answered[keys.ClassOf(err)]++
				mu.Unlock()
				if err != nil {
					return
				}
				if !k.Equal(first.Secret) {
					t.Error("another key")
				}
			}
		})
	}
	for enough := false; !enough; time.Sleep(time.Millisecond) {
		mu.Lock()
		enough = answered[""] > 100
		mu.Unlock()
	}
	p.cmd.Process.Kill()
	wg.Wait()
	<-p.done
	for class := range answered {
		switch class {
		case "", keys.ClassUnreachable, keys.Class(keyservice.ReasonRate):
		default:
			t.Errorf("killed, the service answers %q %d times", class, answered[class])
		}
	}

	again := d.start(t, config)
	if k, err := ask(t, d.ask(t, again.address, token)); err != nil || !k.Equal(first.Secret) {
		t.Errorf("after it was killed: %v", err)
	}
	if err := again.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-again.done:
		if err != nil {
			t.Errorf("asked to end: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("asked to end, the service goes on")
	}
}

// TestLoad measures the service in cluster-held mode over TLS on loopback, the
// callers on the same processors: first as fast as 64 callers can ask, then with
// the 64 asking minRate times a second in all. It runs with -load 10s.
func TestLoad(t *testing.T) {
	if *load == 0 {
		t.Skip("without -load")
	}
	d := deploy(t)
	config := d.held(t)
	config.Limits.CallerRate, config.Limits.CallerBurst = 1e6, 1e6
	p := d.start(t, config)
	token := d.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)
	clients := make([]*client.Client, 8)
	for i := range clients {
		clients[i] = d.ask(t, p.address, token)
	}
	if _, err := ask(t, clients[0]); err != nil {
		t.Fatal(err)
	}
	// The token is known for 30 seconds now, and what is measured is not the API server.
	d.StopAPIServer()
	n1, rate, _ := measure(t, "as fast as they can", clients, 0)
	n2, _, p99 := measure(t, "paced", clients, callers*time.Second/minRate)
	memory := peakMemory(t, p.cmd.Process.Pid)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	used := p.cmd.ProcessState
	t.Logf("%d processors, peak memory %d KiB, the service used %v of processor time for %d requests",
		runtime.NumCPU(), memory, used.UserTime()+used.SystemTime(), n1+n2)
	if rate < minRate || p99 > maxP99 || memory > maxMemory {
		t.Errorf("want at least %d requests/s, p99 of at most %v, at most %d KiB", minRate, maxP99, maxMemory)
	}
}

// measure has the callers ask for a while, each again after a pause. How long an
// answer took counts from when its question was due, not from when it was asked.
func measure(t *testing.T, name string, clients []*client.Client, pause time.Duration) (n int, rate float64, p99 time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			var own []time.Duration
			due := began.Add(pause * time.Duration(i) / callers)
			for j := 0; due.Sub(began) < *load; j++ {
				time.Sleep(time.Until(due))
				if _, err := keys.Get[keys.StateDisk](t.Context(), clients[i%len(clients)], fmt.Sprintf("disk-%d-%d", i, j), 32, 0); err != nil {
					t.Error(err)
					return
				}
				own = append(own, time.Since(due))
				if due = due.Add(pause); pause == 0 {
					due = time.Now()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	wg.Wait()
	total := time.Since(began)
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	rate, p99 = float64(len(took))/total.Seconds(), took[len(took)*99/100]
	t.Logf("%d callers, %s, %v: %.0f requests/s, median %v, p99 %v", callers, name, total.Round(time.Millisecond), rate, took[len(took)/2], p99)
	return len(took), rate, p99
}

// peakMemory is the most that a process had resident, in KiB.
func peakMemory(t *testing.T, pid int) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscanf(value, "%d kB", &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib
}
