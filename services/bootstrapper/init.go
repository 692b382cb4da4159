// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Init implements api.BootstrapperServer.
func (s *Server) Init(r *api.InitRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	defer clear(r.GetMasterSecret())
	defer clear(r.InitSecret)
	ctx := stream.Context()
	if len(r.InitSecret) != initSecretSize {
		return requestError("init_secret: %d bytes, not %d", len(r.InitSecret), initSecretSize)
	}
	if err := s.guard.admit(ctx, r.InitSecret); err != nil {
		return err
	}
	request, err := newRequest(r, s.options.Check)
	if err != nil {
		return requestError("%v", err)
	}
	j, err := s.admit(request)
	if err != nil {
		return err
	}
	return j.watch(ctx, stream.Send)
}

// admit starts a job for the request, or finds the one that is at work on it.
func (s *Server) admit(r *Request) (*job, error) {
	cluster, fingerprint := hex.EncodeToString(r.Cluster[:]), r.Fingerprint()
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job; j != nil && j.running() {
		r.Keyring.Wipe()
		switch {
		case j.cluster == cluster && j.fingerprint == fingerprint:
			return j, nil
		case j.cluster != cluster && s.options.Journal.Reached(api.Step_STEP_LOCK):
			return nil, otherCluster(fmt.Sprintf("since it booted, the node belongs to cluster %.8s", j.cluster))
		}
		return nil, problem(&api.Problem{Reason: api.Problem_REASON_BUSY, Step: s.status.Step,
			Advice: "Wait until it has ended; Status says how far it is."}, "another Init is at work")
	}
	if err := s.options.Journal.Begin(cluster, fingerprint, r.NodeName); err != nil {
		r.Keyring.Wipe()
		return nil, s.refuse(err)
	}
	j := newJob(cluster, fingerprint)
	s.job = j
	s.status.State, s.status.Step, s.status.Message = api.State_STATE_WORKING, api.Step_STEP_LOCK, ""
	s.jobs.Go(func() { s.run(j, r) })
	return j, nil
}

// refuse says why the journal does not let a request begin.
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
func (s *Server) run(j *job, r *Request) {
	defer r.Keyring.Wipe()
	list, err := s.options.Steps(r)
	sequence := steps.Sequence{
		Steps: list, Journal: s.options.Journal, Limit: steps.Limit,
		Observe: func(e *api.Progress) { s.observe(r, e); j.observe(e) },
	}
	if err == nil {
		err = sequence.Run(s.work)
	}
	var kubeconfig []byte
	if err == nil {
		if kubeconfig, err = s.options.Kubeconfig(); err != nil {
			err = &steps.Failure{Step: api.Step_STEP_NODE, Reason: api.Problem_REASON_STEP, Advice: "Send the same Init again.", Err: err}
		}
	}
	if err != nil {
		j.end(nil, s.failed(err))
		return
	}
	s.mu.Lock()
	s.status.State, s.status.Message = api.State_STATE_MEMBER, complete
	s.mu.Unlock()
	s.options.Say("This machine is a node, and ready")
	j.end(&api.Result{ClusterId: r.Cluster[:], Kubeconfig: kubeconfig}, nil)
}

// failed tells everybody why the node cannot proceed, and makes the caller's error.
func (s *Server) failed(err error) error {
	f := &steps.Failure{Step: api.Step_STEP_LOCK, Reason: api.Problem_REASON_STEP, Advice: "Send the same Init again."}
	errors.As(err, &f)
	message := fmt.Sprintf("step %q failed: %v", steps.Name(f.Step), err)
	s.mu.Lock()
	s.status.State, s.status.Step, s.status.Message = api.State_STATE_FAILED, f.Step, message+". "+f.Advice
	if f.Step == api.Step_STEP_LOCK && f.Reason != api.Problem_REASON_OTHER_CLUSTER {
		s.status.State = api.State_STATE_WAITING // it is still nobody's
	}
	s.mu.Unlock()
	s.options.Say("This node cannot proceed: " + message)
	s.options.Say("  " + f.Advice)
	return problem(&api.Problem{Reason: f.Reason, Step: f.Step, Advice: f.Advice, Journal: s.options.Logs(s.work)}, message)
}
