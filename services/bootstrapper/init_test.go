// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

var (
	initSecret = bytes.Repeat([]byte("owner   "), 4)
	components = []byte("a component set")
	kubeconfig = []byte("a kubeconfig")
)

// options are those of a node with no steps.
func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(journal.File(filepath.Join(dir, "boot")), journal.File(filepath.Join(dir, "disk")), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Image:   image,
		Journal: j,
		Owner: func(context.Context) (*[sha256.Size]byte, error) {
			sum := sha256.Sum256(initSecret)
			return &sum, nil
		},
		Check: func(r *Request) error {
			if !bytes.Equal(r.ComponentSet, components) {
				return errors.New("component_set: no image kubernetes")
			}
			return nil
		},
		Steps:      func(*Request) ([]steps.Step, error) { return nil, nil },
		Recovery:   func(*Recovery) (*steps.Plan, error) { return &steps.Plan{}, nil },
		Disk:       func(context.Context) StateDisk { return StateDisk{Kind: api.Disk_DISK_FRESH} },
		Kubeconfig: func() ([]byte, error) { return kubeconfig, nil },
		Logs:       func(context.Context) []byte { return []byte("the end of the journal") },
		Say:        func(line string) { t.Log(line) },
	}
}

// step is a step whose end the test decides.
type step struct {
	id  api.Step
	end func(context.Context, steps.Report) error
}

func (s *step) ID() api.Step { return s.id }
func (s *step) Run(ctx context.Context, r steps.Report) (steps.Outcome, error) {
	return steps.Done, s.end(ctx, r)
}

// gate is a step that waits for the test.
type gate struct{ reached, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 16), make(chan struct{})} }

func (g *gate) end(ctx context.Context, _ steps.Report) error {
	g.reached <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sequence makes steps of their ends, in the order of the API's.
func sequence(ends ...func(context.Context, steps.Report) error) func(*Request) ([]steps.Step, error) {
	return func(*Request) (out []steps.Step, err error) {
		for i, end := range ends {
			out = append(out, &step{api.Step(i + 1), end})
		}
		return out, nil
	}
}

func ok(context.Context, steps.Report) error { return nil }

// start serves a node until the test ends, and returns a client that has verified it.
func start(t *testing.T, o Options) (api.BootstrapperClient, func() error) {
	t.Helper()
	node := attestationtest.NewDevice("image")
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(ctx, o).Serve(ctx, l, channel(t, node)) }()
	var once sync.Once
	var err error
	stop := func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.Cleanup(func() { stop() })
	c, _ := verifying(t, node)
	return client(t, l.Addr().String(), c), stop
}

func masterSecret(t *testing.T) []byte {
	t.Helper()
	content, err := keys.Generate().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func validRequest(t *testing.T) *api.InitRequest {
	t.Helper()
	return &api.InitRequest{
		InitSecret: bytes.Clone(initSecret), Keys: &api.InitRequest_MasterSecret{MasterSecret: masterSecret(t)},
		NodeName: "control-plane-0", ComponentSet: components, Sources: []string{"http://10.77.0.1:5000"},
		Endpoint:   "10.77.0.10:6443",
		PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12", ClusterName: "constellation", Policy: examplePolicy(t),
	}
}

// examplePolicy accepts an image that is none, of a machine that is none.
func examplePolicy(t *testing.T) []byte {
	t.Helper()
	set := accepted.Set{Name: "image", PCRs: map[int][]accepted.Value{}}
	for _, pcr := range measurements.MandatoryPCRs() {
		set.PCRs[pcr] = []accepted.Value{{SHA256: bytes.Repeat([]byte{1}, 32), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}}
	}
	data, err := policy.Draft{Measurements: []accepted.Set{set}, Inventory: []policy.Entry{{
		Identity: attestation.Identity{Kind: attestation.EndorsementKey, Value: bytes.Repeat([]byte{2}, 32)},
		Grant:    attestation.Grant{Name: "control-plane-0", Role: policy.ControlPlane},
	}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// call sends an Init and returns all that comes.
func call(ctx context.Context, c api.BootstrapperClient, r *api.InitRequest) (progress []*api.Progress, result *api.Result, err error) {
	stream, err := c.Init(ctx, r)
	return collect(stream, err)
}

// collect returns all that comes.
func collect(stream grpc.ServerStreamingClient[api.InitResponse], err error) (progress []*api.Progress, result *api.Result, _ error) {
	if err != nil {
		return nil, nil, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return progress, result, nil
		}
		if err != nil {
			return progress, result, err
		}
		if p := m.GetProgress(); p != nil {
			progress = append(progress, p)
		}
		if r := m.GetResult(); r != nil {
			result = r
		}
	}
}

// story is progress in short.
func story(progress []*api.Progress) string {
	var out []string
	for _, p := range progress {
		text := fmt.Sprintf("%d%s", p.Step, strings.ToLower(p.State.String()[len("STATE_"):]))
		if p.Detail != "" {
			text += "(" + p.Detail + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func wantProblem(t *testing.T, err error, code codes.Code, reason api.Problem_Reason, says string) {
	t.Helper()
	p := ProblemOf(err)
	if p == nil || status.Code(err) != code || p.Reason != reason || p.Advice == "" || !strings.Contains(status.Convert(err).Message(), says) {
		t.Errorf("got %v with %v, want %v, %v, %q", err, p, code, reason, says)
	}
}

func TestInit(t *testing.T) {
	o := options(t)
	o.Steps = sequence(ok, func(_ context.Context, report steps.Report) error { report("formatting", 1, 2); return nil })
	c, _ := start(t, o)
	r := validRequest(t)
	progress, result, err := call(t.Context(), c, r)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := story(progress), "1started 1done 2started 2update(formatting) 2done"; got != want {
		t.Errorf("progress is %s, want %s", got, want)
	}
	ring, err := keys.Parse(r.GetMasterSecret())
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := ring.ClusterID()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(result.GetClusterId(), cluster[:]) || !bytes.Equal(result.GetKubeconfig(), kubeconfig) {
		t.Errorf("result is %v", result)
	}
	got, err := c.Status(t.Context(), &api.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.State != api.State_STATE_MEMBER || !bytes.Equal(got.ClusterId, cluster[:]) {
		t.Errorf("status is %v", got)
	}
}

func TestOwner(t *testing.T) {
	for _, tc := range []struct {
		name   string
		owner  Owner
		secret []byte
		code   codes.Code
		reason api.Problem_Reason
		says   string
	}{
		{"another's secret", nil, make([]byte, 32), codes.PermissionDenied, api.Problem_REASON_OWNER, "the init secret is not the owner's"},
		{"a short secret", nil, initSecret[:31], codes.InvalidArgument, api.Problem_REASON_REQUEST, "init_secret: 31 bytes, not 32"},
		{"no owner", func(context.Context) (*[32]byte, error) { return nil, nil }, initSecret, codes.PermissionDenied, api.Problem_REASON_OWNER, "told of no init secret"},
		{"no metadata", func(context.Context) (*[32]byte, error) { return nil, errors.New("connection refused") }, initSecret,
			codes.PermissionDenied, api.Problem_REASON_OWNER, "cannot learn who its owner is: connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t)
			if tc.owner != nil {
				o.Owner = tc.owner
			}
			o.Steps = func(*Request) ([]steps.Step, error) { t.Error("steps were taken"); return nil, nil }
			c, _ := start(t, o)
			r := validRequest(t)
			r.InitSecret = tc.secret
			_, _, err := call(t.Context(), c, r)
			wantProblem(t, err, tc.code, tc.reason, tc.says)
		})
	}
}

func TestGuessingIsBounded(t *testing.T) {
	asked := 0
	g := newGuard(func(context.Context) (*[32]byte, error) { asked++; return new([32]byte), nil })
	now := time.Now()
	g.now = func() time.Time { return now }
	for range 3 * guessBurst {
		if err := g.admit(t.Context(), initSecret); err == nil {
			t.Fatal("admitted")
		}
	}
	if asked != guessBurst {
		t.Errorf("the surroundings were asked %d times, want %d", asked, guessBurst)
	}
	wantProblem(t, g.admit(t.Context(), initSecret), codes.PermissionDenied, api.Problem_REASON_OWNER, "too many wrong init secrets")
	now = now.Add(guessEvery)
	wantProblem(t, g.admit(t.Context(), initSecret), codes.PermissionDenied, api.Problem_REASON_OWNER, "the init secret is not the owner's")
}

func TestAttach(t *testing.T) {
	o, g := options(t), newGate()
	o.Steps = sequence(ok, g.end)
	c, _ := start(t, o)
	r := validRequest(t)
	ctx, cancel := context.WithCancel(t.Context())
	cut := make(chan error, 1)
	go func() { _, _, err := call(ctx, c, proto.CloneOf(r)); cut <- err }()
	<-g.reached
	cancel() // the connection is cut, the work goes on
	if err := <-cut; status.Code(err) != codes.Canceled {
		t.Errorf("cut off with %v", err)
	}
	if s, err := c.Status(t.Context(), &api.StatusRequest{}); err != nil || s.State != api.State_STATE_WORKING || s.Step != api.Step_STEP_DISK {
		t.Errorf("status is %v, %v", s, err)
	}
	other := proto.CloneOf(r)
	other.NodeName = "other"
	_, _, err := call(t.Context(), c, other)
	wantProblem(t, err, codes.Unavailable, api.Problem_REASON_BUSY, "another Init is at work")
	_, _, err = call(t.Context(), c, validRequest(t))
	wantProblem(t, err, codes.FailedPrecondition, api.Problem_REASON_OTHER_CLUSTER, "since it booted, the node belongs to cluster")

	go func() { time.Sleep(50 * time.Millisecond); close(g.open) }()
	r.Sources = []string{"https://elsewhere.example/"} // may change
	progress, result, err := call(t.Context(), c, r)
	if err != nil || result == nil {
		t.Fatal(result, err)
	}
	if got, want := story(progress), "1started 1done 2started 2done"; got != want {
		t.Errorf("who comes later is told %s, want %s", got, want)
	}
	if len(g.reached) != 0 {
		t.Error("a step was done twice")
	}
}

func TestFailureAndRetry(t *testing.T) {
	o, fail := options(t), true
	journalText := bytes.Repeat([]byte("a line of the journal of some length, which may be long\n"), 1170) // 64 KiB
	o.Logs = func(context.Context) []byte { return journalText }
	o.Steps = sequence(ok, func(context.Context, steps.Report) error {
		if fail {
			return &steps.Failure{Reason: api.Problem_REASON_STEP, Advice: "Replace it.", Err: errors.New("the state disk holds something else")}
		}
		return nil
	})
	c, _ := start(t, o)
	r := validRequest(t)
	_, _, err := call(t.Context(), c, r)
	wantProblem(t, err, codes.Aborted, api.Problem_REASON_STEP, `step "state disk" failed: the state disk holds something else`)
	if p := ProblemOf(err); p.GetStep() != api.Step_STEP_DISK || p.GetAdvice() != "Replace it." || !bytes.Equal(p.GetJournal(), journalText) {
		t.Errorf("problem is %v, %q, %d bytes of journal", p.GetStep(), p.GetAdvice(), len(p.GetJournal()))
	}
	s, err := c.Status(t.Context(), &api.StatusRequest{})
	if err != nil || s.State != api.State_STATE_FAILED || s.Step != api.Step_STEP_DISK || !strings.Contains(s.Message, "holds something else. Replace it.") {
		t.Errorf("status is %v, %v", s, err)
	}
	_, _, err = call(t.Context(), c, validRequest(t))
	wantProblem(t, err, codes.FailedPrecondition, api.Problem_REASON_OTHER_CLUSTER, "since it booted, the node belongs to cluster")
	fail = false
	if _, result, err := call(t.Context(), c, r); err != nil || result == nil {
		t.Errorf("the next Init: %v, %v", result, err)
	}
}

// TestLockFailedLeavesTheNodeNobodys: another cluster may have it then.
func TestLockFailedLeavesTheNodeNobodys(t *testing.T) {
	o, fail := options(t), true
	o.Steps = sequence(func(context.Context, steps.Report) error {
		if fail {
			return errors.New("the TPM is busy")
		}
		return nil
	})
	c, _ := start(t, o)
	_, _, err := call(t.Context(), c, validRequest(t))
	wantProblem(t, err, codes.Aborted, api.Problem_REASON_STEP, "the TPM is busy")
	if s, err := c.Status(t.Context(), &api.StatusRequest{}); err != nil || s.State != api.State_STATE_WAITING || len(s.ClusterId) != 0 {
		t.Errorf("status is %v, %v", s, err)
	}
	fail = false
	if _, result, err := call(t.Context(), c, validRequest(t)); err != nil || result == nil {
		t.Errorf("another cluster's Init: %v, %v", result, err)
	}
}

// TestRestartedService: what the service was at is known to the next one.
func TestRestartedService(t *testing.T) {
	o, g := options(t), newGate()
	o.Steps = sequence(ok, g.end)
	c, stop := start(t, o)
	r := validRequest(t)
	ended := make(chan error, 1)
	go func() { _, _, err := call(t.Context(), c, r); ended <- err }()
	<-g.reached
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the call ended well")
	}
	cluster := o.Journal.Cluster()

	o.Steps = sequence(ok, ok)
	c, _ = start(t, o)
	s, err := c.Status(t.Context(), &api.StatusRequest{})
	if err != nil || s.State != api.State_STATE_FAILED || s.Step != api.Step_STEP_DISK || hex.EncodeToString(s.ClusterId) != cluster ||
		!strings.Contains(s.Message, `restarted at the step "state disk"`) {
		t.Errorf("status is %v, %v", s, err)
	}
	_, _, err = call(t.Context(), c, validRequest(t))
	wantProblem(t, err, codes.FailedPrecondition, api.Problem_REASON_OTHER_CLUSTER, "since it booted, the node belongs to cluster")
	if _, result, err := call(t.Context(), c, r); err != nil || result == nil {
		t.Errorf("the same Init: %v, %v", result, err)
	}
}

func TestRequestsAreRefused(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, tc := range []struct {
		name   string
		change func(*api.InitRequest)
		says   string
	}{
		{"no node name", func(r *api.InitRequest) { r.NodeName = "" }, "node_name: \"\" is not 1 to 63"},
		{"upper case", func(r *api.InitRequest) { r.NodeName = "Node" }, "node_name: \"Node\" is not 1 to 63"},
		{"a long name", func(r *api.InitRequest) { r.NodeName = long }, "node_name"},
		{"a name that is a path", func(r *api.InitRequest) { r.NodeName = "../x" }, "node_name"},
		{"no cluster name", func(r *api.InitRequest) { r.ClusterName = "" }, "cluster_name"},
		{"no component set", func(r *api.InitRequest) { r.ComponentSet = nil }, "component_set: 0 bytes"},
		{"another component set", func(r *api.InitRequest) { r.ComponentSet = []byte("x") }, "component_set: no image kubernetes"},
		{"a large component set", func(r *api.InitRequest) { r.ComponentSet = make([]byte, maxComponentSet+1) }, "component_set: 32769 bytes"},
		{"no policy", func(r *api.InitRequest) { r.Policy = nil }, "policy: policy: "},
		{"a policy that says too little (V21)", func(r *api.InitRequest) {
			r.Policy = bytes.Replace(r.Policy, []byte(`"11":`), []byte(`"10":`), 1)
		}, "policy: policy: measurements: "},
		{"a large policy", func(r *api.InitRequest) { r.Policy = make([]byte, maxPolicy+1) }, "policy: 131073 bytes, at most 131072"},
		{"no source", func(r *api.InitRequest) { r.Sources = nil }, "sources: 0 sources"},
		{"too many sources", func(r *api.InitRequest) { r.Sources = make([]string, 9) }, "sources: 9 sources"},
		{"a file as source", func(r *api.InitRequest) { r.Sources = []string{"file:///etc/shadow"} }, "is not an http or https URL"},
		{"credentials in a source", func(r *api.InitRequest) { r.Sources = []string{"http://a:b@c"} }, "is not a base URL"},
		{"a long source", func(r *api.InitRequest) { r.Sources = []string{"http://" + strings.Repeat("a", 256)} }, "at most 256 bytes"},
		{"no endpoint", func(r *api.InitRequest) { r.Endpoint = "" }, "endpoint: endpoint \"\" is not HOST:PORT"},
		{"port 0", func(r *api.InitRequest) { r.Endpoint = "a:0" }, "endpoint: endpoint \"a:0\": \"0\" is no port"},
		{"a wildcard", func(r *api.InitRequest) { r.ApiServerNames = []string{"*.example.com"} }, "api_server_names: \"*.example.com\" is neither"},
		{"a name twice", func(r *api.InitRequest) { r.ApiServerNames = []string{"a", "a"} }, "api_server_names: a is there twice"},
		{"too many names", func(r *api.InitRequest) { r.ApiServerNames = make([]string, 17) }, "17 names, at most 16"},
		{"no pod network", func(r *api.InitRequest) { r.PodNetwork = "" }, "service_network: network of pods \"\" is not in CIDR notation"},
		{"overlapping networks", func(r *api.InitRequest) { r.ServiceNetwork = "10.240.0.0/12" }, "service_network: network of pods 10.244.0.0/16 and network of services 10.240.0.0/12 overlap"},
		{"no keys", func(r *api.InitRequest) { r.Keys = nil }, "keys: there is no master secret"},
		{"a broken master secret", func(r *api.InitRequest) { r.Keys = &api.InitRequest_MasterSecret{MasterSecret: []byte("{}")} }, "master_secret: malformed: not a master-secret file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := validRequest(t)
			tc.change(r)
			_, err := newRequest(r, options(t).Check)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	o := options(t)
	o.Steps = func(*Request) ([]steps.Step, error) { t.Error("steps were taken"); return nil, nil }
	c, _ := start(t, o)
	r := validRequest(t)
	r.NodeName = ""
	_, _, err := call(t.Context(), c, r)
	wantProblem(t, err, codes.InvalidArgument, api.Problem_REASON_REQUEST, "node_name")
	r = validRequest(t)
	r.ComponentSet = make([]byte, maxMessage)
	if _, _, err := call(t.Context(), c, r); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message that is too large: %v", err)
	}
}

// TestFingerprint: each setting that cannot change changes it, and nothing else does.
func TestFingerprint(t *testing.T) {
	r := validRequest(t)
	fingerprint := func(change func(*api.InitRequest)) string {
		t.Helper()
		c := proto.CloneOf(r)
		change(c)
		parsed, err := newRequest(c, func(*Request) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return parsed.Fingerprint()
	}
	same := fingerprint(func(*api.InitRequest) {})
	other := masterSecret(t)
	seen := map[string]string{same: "nothing"}
	for name, change := range map[string]func(*api.InitRequest){
		"node":     func(r *api.InitRequest) { r.NodeName = "other" },
		"set":      func(r *api.InitRequest) { r.ComponentSet = []byte("other") },
		"endpoint": func(r *api.InitRequest) { r.Endpoint = "10.77.0.10:443" },
		"names":    func(r *api.InitRequest) { r.ApiServerNames = []string{"a"} },
		"pods":     func(r *api.InitRequest) { r.PodNetwork = "10.245.0.0/16" },
		"services": func(r *api.InitRequest) { r.ServiceNetwork = "172.16.0.0/16" },
		"cluster":  func(r *api.InitRequest) { r.ClusterName = "other" },
		"secret":   func(r *api.InitRequest) { r.Keys = &api.InitRequest_MasterSecret{MasterSecret: other} },
	} {
		f := fingerprint(change)
		if before, ok := seen[f]; ok {
			t.Errorf("%s is as good as %s", name, before)
		}
		seen[f] = name
	}
	if fingerprint(func(r *api.InitRequest) { r.Sources = []string{"http://other"}; r.InitSecret = nil }) != same {
		t.Error("sources make another request")
	}
	if fingerprint(func(r *api.InitRequest) { r.Schedulable = true; r.Policy = append(r.Policy, '\n') }) != same {
		t.Error("what can be changed later makes another request")
	}
}
