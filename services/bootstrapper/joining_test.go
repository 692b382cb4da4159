// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// joinTask is that of a cluster's, with the steps of these ends.
func joinTask(ends ...func(context.Context, steps.Report) error) *Task {
	return &Task{Cluster: keys.ClusterID{1}, Wipe: func() {}, Plan: func() (*steps.Plan, error) {
		list, err := sequence(ends...)(nil)
		return &steps.Plan{Steps: list}, err
	}}
}

// serveServer is start's for who needs the server itself.
func serveServer(t *testing.T, o Options) (*Server, func(want api.State, message string)) {
	t.Helper()
	s := New(t.Context(), o)
	return s, func(want api.State, message string) {
		t.Helper()
		got, err := s.Status(t.Context(), &api.StatusRequest{})
		if err != nil || got.State != want || got.Message != message {
			t.Errorf("status is %v, %q, want %v, %q (%v)", got.State, got.Message, want, message, err)
		}
	}
}

// TestJoining: why the node is not let in is its status; it becomes a member as by Init.
func TestJoining(t *testing.T) {
	o := nodeOptions(t)
	var said []string
	o.Say = func(line string) { said = append(said, line) }
	s, want := serveServer(t, o)
	want(api.State_STATE_WAITING, waiting)
	for range 3 {
		if !s.Joining("10.77.0.10 refuses: not-listed") {
			t.Error("the node is at work")
		}
	}
	want(api.State_STATE_JOINING, "10.77.0.10 refuses: not-listed")
	if len(said) != 1 {
		t.Errorf("the console has %q", said)
	}
	err := s.Join(joinTask(ok, func(context.Context, steps.Report) error {
		return &steps.Failure{Reason: api.Problem_REASON_STEP, Advice: "Send the same Init again.", Err: errors.New("no source delivers")}
	}))
	wantProblem(t, err, codes.Aborted, api.Problem_REASON_STEP, `step "state disk" failed: no source delivers`)
	want(api.State_STATE_FAILED, `step "state disk" failed: no source delivers. Wait: the node tries again.`)
	if s.Member() {
		t.Error("it is a member")
	}
	s.Joining("10.77.0.10 does not answer")
	want(api.State_STATE_JOINING, "10.77.0.10 does not answer")
	if err := s.Join(joinTask(ok, ok)); err != nil || !s.Member() {
		t.Errorf("a member: %v, %v", s.Member(), err)
	}
	want(api.State_STATE_MEMBER, complete)
	if s.Joining("10.77.0.10 does not answer") {
		t.Error("a member joins")
	}
}

// TestJoinStandsAside: who was sent an Init or a Recover takes no ticket meanwhile, and
// who joins takes no Init.
func TestJoinStandsAside(t *testing.T) {
	o, g := nodeOptions(t), newGate()
	o.Recovery = func(*Recovery) (*steps.Plan, error) {
		return &steps.Plan{Steps: []steps.Step{&step{api.Step_STEP_LOCK, g.end}}}, nil
	}
	s, _ := serveServer(t, o)
	ring := keys.Generate()
	j, err := s.begin(&Task{Name: taskRecover, Wipe: ring.Wipe, Plan: func() (*steps.Plan, error) { return o.Recovery(nil) }})
	if err != nil {
		t.Fatal(err)
	}
	<-g.reached
	if s.Joining("10.77.0.10 does not answer") {
		t.Error("the node is not at work")
	}
	wiped := false
	task := joinTask(ok)
	task.Wipe = func() { wiped = true }
	wantProblem(t, s.Join(task), codes.Unavailable, api.Problem_REASON_BUSY, "a Recover is at work")
	if !wiped {
		t.Error("the ticket's secrets are there")
	}
	close(g.open)
	if err := j.watch(t.Context(), func(*api.InitResponse) error { return nil }); err != nil {
		t.Error(err)
	}
}
