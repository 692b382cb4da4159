// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Task is a way to become a node, or to be one again. The node works on one at a time.
type Task struct {
	// Name is that of the call which asks for it, for people.
	Name    string
	Cluster keys.ClusterID
	// Fingerprint is the request's, and Node the node's name; both are empty if the state
	// disk is to say them.
	Fingerprint, Node string
	// Plan makes what is to be done.
	Plan func() (*steps.Plan, error)
	// Wipe overwrites the secrets.
	Wipe func()
}

// key tells whether two tasks are the same.
func (t *Task) key() string { return t.Name + "/" + t.Fingerprint }

// Join does a task for which a cluster has let the machine in, and returns when it has
// ended. An error has a Problem: of REASON_BUSY if the node is at work for somebody else.
func (s *Server) Join(t *Task) error {
	t.Name = taskJoin
	j, err := s.begin(t)
	if err != nil {
		return err
	}
	return j.watch(s.work, func(*api.InitResponse) error { return nil })
}

// Member says whether the node is part of a cluster.
func (s *Server) Member() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.State == api.State_STATE_MEMBER
}

// begin starts a job for the task, or finds the one that is at work on it.
func (s *Server) begin(t *Task) (*job, error) {
	cluster := t.Cluster.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job; j != nil && j.running() {
		t.Wipe()
		switch {
		case j.cluster == cluster && j.key == t.key():
			return j, nil
		case j.cluster != cluster && s.options.Journal.Reached(api.Step_STEP_LOCK):
			return nil, otherCluster(fmt.Sprintf("since it booted, the node belongs to cluster %.8s", j.cluster))
		}
		return nil, problem(&api.Problem{Reason: api.Problem_REASON_BUSY, Step: s.status.Step,
			Advice: "Wait until it has ended; Status says how far it is."}, j.atWork(t))
	}
	if err := s.options.Journal.Begin(cluster, t.Fingerprint, t.Node); err != nil {
		t.Wipe()
		return nil, s.refuse(err)
	}
	j := newJob(t.Name, cluster, t.key())
	s.job = j
	s.status.State, s.status.Step, s.status.Message = api.State_STATE_WORKING, api.Step_STEP_LOCK, ""
	s.jobs.Go(func() { s.run(j, t) })
	return j, nil
}

// atWork says to another task why it has to wait.
func (j *job) atWork(t *Task) string {
	if j.name == t.Name {
		return "another " + j.name + " is at work"
	}
	return "a " + j.name + " is at work"
}

// refuse says why the journal does not let a task begin.
func (s *Server) refuse(err error) error {
	if errors.Is(err, journal.ErrOther) {
		return otherCluster(err.Error())
	}
	return problem(&api.Problem{Reason: api.Problem_REASON_STEP, Step: api.Step_STEP_LOCK, Advice: "Reboot the machine."}, err.Error())
}

const adviceOther = "Send the request that the node became part of its cluster with. To use the machine for something else, reboot it and give it a blank state disk."

func otherCluster(message string) error {
	return problem(&api.Problem{Reason: api.Problem_REASON_OTHER_CLUSTER, Advice: adviceOther}, message)
}

// run does the job.
func (s *Server) run(j *job, t *Task) {
	defer t.Wipe()
	plan, err := t.Plan()
	if err == nil {
		sequence := steps.Sequence{
			Plan: *plan, Journal: s.options.Journal, Limit: steps.Limit,
			Observe: func(e *api.Progress) { s.observe(t.Cluster, e); j.observe(e) },
		}
		err = sequence.Run(s.work)
	}
	var kubeconfig []byte
	if err == nil {
		kubeconfig, err = s.kubeconfig(t)
	}
	if err != nil {
		j.end(nil, s.failed(t, err))
		return
	}
	s.mu.Lock()
	s.status.State, s.status.Message = api.State_STATE_MEMBER, complete
	s.mu.Unlock()
	s.options.Say("This machine is a node, and ready")
	j.end(&api.Result{ClusterId: t.Cluster[:], Kubeconfig: kubeconfig}, nil)
}

// kubeconfig is the administrator's; a worker has none.
func (s *Server) kubeconfig(t *Task) ([]byte, error) {
	content, err := s.options.Kubeconfig()
	if errors.Is(err, fs.ErrNotExist) && t.Name != taskInit {
		return nil, nil
	}
	if err != nil {
		return nil, &steps.Failure{Step: api.Step_STEP_NODE, Reason: api.Problem_REASON_STEP, Advice: "Send the same Init again.", Err: err}
	}
	return content, nil
}

// failed tells everybody why the node cannot proceed, and makes the caller's error.
func (s *Server) failed(t *Task, err error) error {
	f := &steps.Failure{Step: api.Step_STEP_LOCK, Reason: api.Problem_REASON_STEP, Advice: "Send the same Init again."}
	errors.As(err, &f)
	advice := t.advice(f.Advice)
	message := fmt.Sprintf("step %q failed: %v", steps.Name(f.Step), err)
	s.mu.Lock()
	s.status.State, s.status.Step, s.status.Message = api.State_STATE_FAILED, f.Step, message+". "+advice
	if f.Step == api.Step_STEP_LOCK && (f.Untouched || f.Reason != api.Problem_REASON_OTHER_CLUSTER) {
		s.status.State = api.State_STATE_WAITING // it is still nobody's
	}
	s.mu.Unlock()
	s.options.Say("This node cannot proceed: " + message)
	s.options.Say("  " + advice)
	return problem(&api.Problem{Reason: f.Reason, Step: f.Step, Advice: advice, Journal: s.options.Logs(s.work)}, message)
}

// advice is a step's, which speaks of an Init, for who has sent something else.
func (t *Task) advice(text string) string {
	switch t.Name {
	case taskJoin:
		return strings.NewReplacer("send the same Init again", "wait: the node tries again", "Send the same Init again", "Wait: the node tries again",
			"send the Init again", "wait: the node tries again").Replace(text)
	default:
		return strings.ReplaceAll(text, taskInit, t.Name)
	}
}

// Names of tasks.
const (
	taskInit    = "Init"
	taskRecover = "Recover"
	taskJoin    = "join"
)
