// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"bufio"
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
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

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/attestation/tpm/tpmtest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

var storm = flag.Int("storm", 0, "how many machines join in each part of TestStorm; not at all by default")

// The limits of a storm, on 2 processors that the machines share with the service.
const (
	minJoins    = 300 // in a second
	stormAtOnce = 200
	maxP99      = 300 * time.Millisecond
	maxMemory   = 64 << 10 // KiB
)

// quotes lets machines in memory quote as often as they can.
var quotes = atls.Options{QuotesPerSecond: 1e6, QuoteBurst: 1e6}

// weather is a storm: the service's process, and machines that want to join.
type weather struct {
	cmd      *exec.Cmd
	input    io.Closer
	output   *bufio.Reader
	address  string
	verifier *tpm.Verifier
	machines []*tpmtest.Machine
	requests [][]byte // for certificates
}

// TestStorm: many machines join, each on a connection of its own, with real cryptography.
func TestStorm(t *testing.T) {
	if *storm == 0 {
		t.Skip("-storm=N lets N machines join")
	}
	w := brew(t, 2**storm)
	before := processorTime(t)
	rate, _ := w.joins(t, "as fast as they can", 0, *storm, 0)
	_, p99 := w.joins(t, "paced", *storm, 2**storm, time.Second/minJoins)
	memory := peakMemory(t, w.cmd.Process.Pid)
	w.input.Close()
	rest, _ := io.ReadAll(w.output)
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("the service: %v: %s", err, rest)
	}
	used := w.cmd.ProcessState.UserTime() + w.cmd.ProcessState.SystemTime()
	n := time.Duration(len(w.machines))
	t.Logf("%d processors, peak memory %d KiB, of processor time for each join the service used %v and the machine %v; no goroutine is left",
		runtime.NumCPU(), memory, used/n, (processorTime(t)-before)/n)
	if rate < minJoins || p99 > maxP99 || memory > maxMemory {
		t.Errorf("want at least %d joins/s, p99 of at most %v, at most %d KiB", minJoins, maxP99, maxMemory)
	}
}

// policyOf accepts an image on these devices.
func policyOf(t testing.TB, p *measurements.Prediction, inventory []policy.Entry) []byte {
	t.Helper()
	set, err := accepted.FromPrediction(p, p.Image.Name, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := policy.Draft{Measurements: []accepted.Set{*set}, Inventory: inventory}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func brew(t *testing.T, n int) *weather {
	t.Helper()
	w := &weather{}
	p := tpmtest.Prediction(image, 100)
	observed := tpmtest.Observed(p)
	var inventory []policy.Entry
	for i := range n {
		m, err := tpmtest.New(observed)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("node-%d", i)
		w.machines = append(w.machines, m)
		w.requests = append(w.requests, request(t, &x509.CertificateRequest{Subject: subject(name)}))
		inventory = append(inventory, policy.Entry{Identity: m.Identity(), Grant: attestation.Grant{Name: name, Role: policy.Worker}})
	}
	dir := t.TempDir()
	writePKI(t, dir)
	if err := keys.Generate().Create(filepath.Join(dir, "master.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.json"), policyOf(t, p, inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start(t, dir)
	return w
}

func (w *weather) start(t *testing.T, dir string) {
	t.Helper()
	w.cmd = exec.Command(os.Args[0], "-test.run=^TestStormProcess$")
	w.cmd.Env = append(os.Environ(), stormDir+"="+dir, "GOMEMLIMIT=36MiB") // as in the manifest
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.input, w.output = input, bufio.NewReader(output)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill() })
	line, err := w.output.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var id measurements.Digest
	var text string
	if _, err := fmt.Sscanf(line, "STORM %s %s", &w.address, &text); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if err := id.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	w.trust(t, attestation.Identity{Kind: attestation.EndorsementKey, Value: id})
}

// trust makes the machines' verifier, of the service's machine.
func (w *weather) trust(t *testing.T, id attestation.Identity) {
	t.Helper()
	d, err := policy.Parse(policyOf(t, tpmtest.Prediction("control plane", 100), []policy.Entry{
		{Identity: id, Grant: attestation.Grant{Name: "control-1", Role: policy.ControlPlane}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if w.verifier, err = tpm.NewVerifier(d, tpm.VerifierOptions{}); err != nil {
		t.Fatal(err)
	}
}

// joins lets machines join, stormAtOnce at once, or one after each pause. How long a join
// took counts from when it was due, connection and handshake included.
func (w *weather) joins(t *testing.T, name string, first, end int, pause time.Duration) (rate float64, p99 time.Duration) {
	t.Helper()
	took := make([]time.Duration, end-first)
	turns := make(chan int)
	began := time.Now()
	due := func(i int) time.Time { return began.Add(pause * time.Duration(i)) }
	var wg sync.WaitGroup
	for range stormAtOnce {
		wg.Go(func() {
			for i := range turns {
				start := time.Now()
				if pause > 0 {
					start = due(i)
				}
				if err := w.join(t.Context(), first+i); err != nil {
					t.Error(err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	for i := range took {
		if pause > 0 {
			time.Sleep(time.Until(due(i)))
		}
		turns <- i
	}
	close(turns)
	wg.Wait()
	total := time.Since(began)
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	rate, p99 = float64(len(took))/total.Seconds(), took[len(took)*99/100]
	t.Logf("%d machines, %s: %.0f joins/s, median %v, p99 %v", len(took), name, rate, took[len(took)/2], p99)
	return rate, p99
}

// join is all that a machine does, from an address of its own.
func (w *weather) join(ctx context.Context, i int) error {
	channel, err := atls.ClientMutual(w.machines[i], []attestation.Verifier{w.verifier}, quotes)
	if err != nil {
		return err
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i))}}
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(channel),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewJoinServiceClient(conn).IssueJoinTicket(ctx, &api.IssueJoinTicketRequest{
		DiskUuid: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), CertificateRequest: w.requests[i],
	})
	return err
}

// processorTime is what this process has used of all processors.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
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
