// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

const diskUUID = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"

// nodeOptions are those of a machine with the disk of a node.
func nodeOptions(t *testing.T) Options {
	o := options(t)
	o.Disk = func(context.Context) StateDisk { return StateDisk{Kind: api.Disk_DISK_NODE, UUID: diskUUID} }
	return o
}

func recovery(t *testing.T) *api.RecoverRequest {
	return &api.RecoverRequest{InitSecret: bytes.Clone(initSecret), Keys: &api.RecoverRequest_MasterSecret{MasterSecret: masterSecret(t)}}
}

func recoverNode(ctx context.Context, c api.BootstrapperClient, r *api.RecoverRequest) ([]*api.Progress, *api.Result, error) {
	stream, err := c.Recover(ctx, r)
	return collect(stream, err)
}

func TestRecover(t *testing.T) {
	o := nodeOptions(t)
	r := recovery(t)
	want := bytes.Clone(r.GetMasterSecret())
	o.Recovery = func(got *Recovery) (*steps.Plan, error) {
		if content, err := got.Keyring.Marshal(); err != nil || !bytes.Equal(content, want) {
			t.Errorf("the plan is for another master secret: %v", err)
		}
		return &steps.Plan{
			Steps: []steps.Step{&step{api.Step_STEP_LOCK, ok}, &step{api.Step_STEP_DISK, ok}},
			Then:  func() ([]steps.Step, error) { return []steps.Step{&step{api.Step_STEP_NODE, ok}}, nil },
		}, nil
	}
	c, _ := start(t, o)
	progress, result, err := recoverNode(t.Context(), c, r)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := story(progress), "1started 1done 2started 2done 9started 9done"; got != want {
		t.Errorf("progress is %s, want %s", got, want)
	}
	ring, err := keys.Parse(want)
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
	s, err := c.Status(t.Context(), &api.StatusRequest{})
	if err != nil || s.State != api.State_STATE_MEMBER || s.Disk != api.Disk_DISK_NODE || s.DiskUuid != diskUUID {
		t.Errorf("status is %v, %v", s, err)
	}
}

func TestRecoverIsRefused(t *testing.T) {
	disk := func(d StateDisk) func(*Options) {
		return func(o *Options) { o.Disk = func(context.Context) StateDisk { return d } }
	}
	for _, tc := range []struct {
		name   string
		change func(*Options)
		ask    func(*api.RecoverRequest)
		code   codes.Code
		reason api.Problem_Reason
		says   string
	}{
		{"another's secret", nil, func(r *api.RecoverRequest) { r.InitSecret = make([]byte, 32) }, codes.PermissionDenied, api.Problem_REASON_OWNER,
			"the init secret is not the owner's"},
		{"no secret", nil, func(r *api.RecoverRequest) { r.InitSecret = nil }, codes.InvalidArgument, api.Problem_REASON_REQUEST, "init_secret: 0 bytes, not 32"},
		{"no keys", nil, func(r *api.RecoverRequest) { r.Keys = nil }, codes.InvalidArgument, api.Problem_REASON_REQUEST, "keys: there is no master secret"},
		{"half a master secret", nil, func(r *api.RecoverRequest) {
			r.Keys = &api.RecoverRequest_MasterSecret{MasterSecret: r.GetMasterSecret()[:40]}
		}, codes.InvalidArgument, api.Problem_REASON_REQUEST, "master_secret: "},
		{"a blank disk", disk(StateDisk{Kind: api.Disk_DISK_FRESH}), nil, codes.FailedPrecondition, api.Problem_REASON_NOT_A_NODE,
			"the machine is no node that could be recovered: its state disk is blank"},
		{"no disk", disk(StateDisk{Kind: api.Disk_DISK_UNUSABLE, Detail: "no disk has the serial number"}), nil, codes.FailedPrecondition,
			api.Problem_REASON_NOT_A_NODE, "the state disk cannot be used: no disk has the serial number"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := nodeOptions(t)
			o.Recovery = func(*Recovery) (*steps.Plan, error) { t.Error("steps were taken"); return nil, errors.New("no") }
			if tc.change != nil {
				tc.change(&o)
			}
			c, _ := start(t, o)
			r := recovery(t)
			if tc.ask != nil {
				tc.ask(r)
			}
			_, _, err := recoverNode(t.Context(), c, r)
			wantProblem(t, err, tc.code, tc.reason, tc.says)
		})
	}
}

// TestRecoverWithAnothersSecret: the machine stays nobody's, and the right one follows.
func TestRecoverWithAnothersSecret(t *testing.T) {
	o := nodeOptions(t)
	fits := false
	o.Recovery = func(*Recovery) (*steps.Plan, error) {
		return &steps.Plan{Steps: []steps.Step{&step{api.Step_STEP_LOCK, func(context.Context, steps.Report) error {
			if !fits {
				return &steps.Failure{Reason: api.Problem_REASON_OTHER_CLUSTER, Advice: "Send the same Init again.", Untouched: true, Err: errors.New("the key does not fit")}
			}
			return nil
		}}}}, nil
	}
	c, _ := start(t, o)
	_, _, err := recoverNode(t.Context(), c, recovery(t))
	wantProblem(t, err, codes.FailedPrecondition, api.Problem_REASON_OTHER_CLUSTER, "the key does not fit")
	if advice := ProblemOf(err).GetAdvice(); advice != "Send the same Recover again." {
		t.Errorf("advice is %q", advice)
	}
	if s, err := c.Status(t.Context(), &api.StatusRequest{}); err != nil || s.State != api.State_STATE_WAITING {
		t.Errorf("status is %v, %v", s, err)
	}
	fits = true
	if _, _, err := recoverNode(t.Context(), c, recovery(t)); err != nil {
		t.Error(err)
	}
}

// TestOneTaskAtATime: Recover attaches to itself, and waits for nobody else.
func TestOneTaskAtATime(t *testing.T) {
	o, g := nodeOptions(t), newGate()
	o.Recovery = func(*Recovery) (*steps.Plan, error) {
		return &steps.Plan{Steps: []steps.Step{&step{api.Step_STEP_LOCK, g.end}}}, nil
	}
	// A worker has no kubeconfig of an administrator.
	o.Kubeconfig = func() ([]byte, error) { return nil, fs.ErrNotExist }
	c, _ := start(t, o)
	r := recovery(t)
	ended := make(chan error, 1)
	go func() { _, _, err := recoverNode(t.Context(), c, clone(r)); ended <- err }()
	<-g.reached
	_, _, err := call(t.Context(), c, validRequest(t))
	wantProblem(t, err, codes.Unavailable, api.Problem_REASON_BUSY, "a Recover is at work")
	attached := make(chan error, 1)
	go func() { _, _, err := recoverNode(t.Context(), c, clone(r)); attached <- err }()
	close(g.open)
	if err := errors.Join(<-ended, <-attached); err != nil {
		t.Error(err)
	}
	if s, err := c.Status(t.Context(), &api.StatusRequest{}); err != nil || s.State != api.State_STATE_MEMBER {
		t.Errorf("status is %v, %v", s, err)
	}
}

func clone(r *api.RecoverRequest) *api.RecoverRequest {
	return &api.RecoverRequest{InitSecret: bytes.Clone(r.InitSecret), Keys: &api.RecoverRequest_MasterSecret{MasterSecret: bytes.Clone(r.GetMasterSecret())}}
}
