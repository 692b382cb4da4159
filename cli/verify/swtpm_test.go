// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package verify_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	evidenceapi "github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
	"github.com/constellation-os/constellation/services/verificationservice"
)

// prediction is one of those recorded.
func prediction(t *testing.T, name string) *measurements.Prediction {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(recorded, name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// machine is a software TPM that booted, and what proves by it.
type machine struct {
	*tpm.Issuer
	took atomic.Int64 // nanoseconds of all operations
}

// newMachine boots a machine with a TPM by an authority. It belongs to a cluster if one
// is named.
func newMachine(t *testing.T, ca *swtpmtest.Authority, p *measurements.Prediction, cluster string) *machine {
	t.Helper()
	device, err := linuxudstpm.Open(swtpmtest.Serve(t, ca))
	if err != nil {
		t.Fatal(err)
	}
	log := swtpmtest.Boot(t, device, p)
	if cluster != "" {
		id, err := hex.DecodeString(cluster)
		if err != nil {
			t.Fatal(err)
		}
		swtpmtest.Extend(t, device, measurements.ClusterPCR, measurements.ClusterDigests(id))
	}
	i, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		device.Close()
	})
	return &machine{Issuer: i}
}

func (m *machine) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	defer m.clock(time.Now())
	return m.Issuer.Issue(ctx, b)
}

func (m *machine) Respond(ctx context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	defer m.clock(time.Now())
	return m.Issuer.Respond(ctx, b, challenge)
}

func (m *machine) clock(began time.Time) { m.took.Add(int64(time.Since(began))) }

// serve runs the service as it ships until the test ends.
func serve(t *testing.T, r attestation.Responder) verificationservice.Addresses {
	t.Helper()
	any := "127.0.0.1:0"
	s, err := verificationservice.Listen(verificationservice.Addresses{GRPC: any, HTTP: any, Admin: any}, r, verificationservice.DefaultLimits(), slog.New(slog.DiscardHandler))
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
	return s.Addresses()
}

// mixed issues and responds by different devices, and changes what was issued.
type mixed struct {
	attestation.Responder
	issue  func(context.Context, attestation.Binding) (*attestation.Evidence, error)
	change func(*evidenceapi.TPM)
}

func (m *mixed) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	issue := m.Responder.Issue
	if m.issue != nil {
		issue = m.issue
	}
	e, err := issue(ctx, b)
	if err != nil || m.change == nil {
		return e, err
	}
	var payload evidenceapi.TPM
	if err := proto.Unmarshal(e.Parts[0].Payload, &payload); err != nil {
		return nil, err
	}
	m.change(&payload)
	data, err := proto.Marshal(&payload)
	return attestation.NewEvidence(tpm.Technology, data), err
}

// withLog shows the log of other events of the same boot.
func withLog(m *machine, p *measurements.Prediction, change func([]artifacttest.LogEvent) []artifacttest.LogEvent) attestation.Responder {
	log := artifacttest.Log(measurements.Algorithms(), change(artifacttest.EventsOf(p))...)
	return &mixed{Responder: m, change: func(e *evidenceapi.TPM) { e.EventLog = log }}
}

// replaying shows, for each nonce, evidence over an old one.
func replaying(m *machine) attestation.Responder {
	return &mixed{Responder: m, issue: func(ctx context.Context, _ attestation.Binding) (*attestation.Evidence, error) {
		return m.Issuer.Issue(ctx, attestation.Binding{})
	}}
}

// cluster is a folder with the files of an administrator, and the endpoints of nodes.
type cluster struct {
	dir       string
	endpoints map[string]string
	nodes     []*machine // ONE to FIVE, which are as they should be
}

var numbers = []string{"ONE", "TWO", "THREE", "FOUR", "FIVE"}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c, ca := &cluster{dir: t.TempDir(), endpoints: map[string]string{}}, swtpmtest.NewAuthority(t)
	good := prediction(t, "measurements.json")
	for _, name := range numbers {
		m := newMachine(t, ca, good, clusterID)
		c.nodes = append(c.nodes, m)
		c.add(t, name, m)
	}
	if err := os.CopyFS(c.dir, os.DirFS(recorded)); err != nil {
		t.Fatal(err)
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate(t)})
	if err := os.WriteFile(filepath.Join(c.dir, "ca.pem"), authority, 0o600); err != nil {
		t.Fatal(err)
	}
	// Those that are not as they should be.
	other := prediction(t, "other.json")
	c.add(t, "FRESH", newMachine(t, ca, good, ""))
	c.add(t, "FOREIGN", newMachine(t, ca, good, otherID))
	c.add(t, "EVIL", newMachine(t, ca, other, clusterID))
	c.add(t, "STRANGER", newMachine(t, swtpmtest.NewAuthority(t), good, clusterID))
	one, two := c.nodes[0], c.nodes[1]
	c.add(t, "RELAY", one)
	c.add(t, "REPLAY", replaying(one))
	c.add(t, "SPLICED", &mixed{Responder: two, issue: one.Issue})
	c.add(t, "RELABELLED", withLog(two, good, func(es []artifacttest.LogEvent) []artifacttest.LogEvent {
		for i := range es {
			es[i].Type, es[i].Data = tcg.EFIAction, []byte("all is well")
		}
		return es
	}))
	c.add(t, "DROPPED", withLog(two, good, func(es []artifacttest.LogEvent) []artifacttest.LogEvent { return es[:len(es)-1] }))
	c.add(t, "CLAIMED", &mixed{Responder: two, change: func(e *evidenceapi.TPM) { e.Banks[0].Values[32*measurements.ClusterPCR]++ }})
	return c
}

func (c *cluster) add(t *testing.T, name string, r attestation.Responder) {
	t.Helper()
	a := serve(t, r)
	c.endpoints[name], c.endpoints[name+"_HTTP"] = a.GRPC, "http://"+a.HTTP
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

// TestSoftwareTPMs has the command judge real TPMs, and the recipe of docs/verify.md.
func TestSoftwareTPMs(t *testing.T) {
	c := newCluster(t)
	policy := c.file("policy.json")
	if code := run([]string{"policy", "create", policy, "--measurements", c.file("measurements.json"), "--not-after", "2099-01-01",
		"--authority", c.file("ca.pem")}, os.Stdout, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	t.Run("five nodes", func(t *testing.T) { c.testFive(t) })
	// Scripts bring a policy of their own.
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/swtpm",
			Setup: func(env *testscript.Env) error {
				setEnv(env, c.endpoints)
				return errors.Join(os.CopyFS(env.WorkDir, os.DirFS(c.dir)), os.Remove(filepath.Join(env.WorkDir, "policy.json")))
			},
		})
	})
	t.Run("the recipe of docs/verify.md", func(t *testing.T) { c.testRecipe(t) })
	t.Run("V22: a flood of strangers", func(t *testing.T) { c.testFlood(t) })
}

func (c *cluster) verify(t *testing.T, args ...string) (code int, seconds float64) {
	t.Helper()
	began := time.Now()
	var out, errs bytes.Buffer
	code = run(append([]string{"verify", "--policy", c.file("policy.json"), "--cluster-id", clusterID, "--output", "json"}, args...), &out, &errs)
	seconds = time.Since(began).Seconds()
	var report struct{ Verdict string }
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || (report.Verdict == "verified") != (code == 0) {
		t.Fatalf("exit code %d: %v\n%s%s", code, err, out.String(), errs.String())
	}
	return code, seconds
}

// maxBeyond is what a verification of five nodes may take beside the TPMs' own time.
const maxBeyond = 5.0 // seconds

func (c *cluster) testFive(t *testing.T) {
	for _, way := range []string{"", "_HTTP"} {
		var args []string
		var before, after int64
		for i, name := range numbers {
			args = append(args, c.endpoints[name+way])
			before += c.nodes[i].took.Load()
		}
		code, seconds := c.verify(t, args...)
		for _, n := range c.nodes {
			after += n.took.Load()
		}
		own := time.Duration(after - before).Seconds()
		t.Logf("five nodes%s: %.3f s, of which the TPMs' own time at most %.3f s", way, seconds, own)
		if code != 0 || seconds > own+maxBeyond {
			t.Errorf("exit code %d after %.3f s", code, seconds)
		}
	}
}

// testFlood: ten addresses ask node one as fast as they can, all the time.
func (c *cluster) testFlood(t *testing.T) {
	const strangers = 10
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var turned atomic.Int64
	for i := range strangers {
		from := fmt.Sprintf("127.0.3.%d", i+1)
		for range 12 { // more than may wait
			wg.Go(func() { flood(ctx, t, from, c.endpoints["ONE_HTTP"], &turned) })
		}
	}
	for deadline := time.Now().Add(30 * time.Second); turned.Load() < 10*strangers; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("nobody is turned away: this is no flood")
			break
		}
	}
	// Two operations, each after one of each stranger at most, at ten a second.
	const bound = 2*(strangers+1)/10.0 + 1
	for range 3 {
		code, seconds := c.verify(t, c.endpoints["ONE"])
		t.Logf("node one under a flood: %.3f s", seconds)
		if code != 0 || seconds > bound {
			t.Errorf("exit code %d after %.3f s, at most %.1f s", code, seconds, bound)
		}
	}
	cancel()
	wg.Wait()
}
