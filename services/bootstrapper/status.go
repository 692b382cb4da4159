// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Status implements api.BootstrapperServer.
func (s *Server) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return proto.CloneOf(s.status), nil
}

// What a node says that waits, and one that can go on.
const (
	waiting  = "Waiting for the owner's Init"
	goOn     = "send the same Init again: it goes on where the node is"
	complete = "the node is ready"
)

// resume finds out what the node was at when the service ended.
func (s *Server) resume() {
	s.status.Message = waiting
	last := s.options.Journal.Last()
	if last == nil {
		return
	}
	cluster, err := hex.DecodeString(s.options.Journal.Cluster())
	if err != nil {
		return
	}
	s.status.ClusterId = cluster
	s.status.Step = last.StepID()
	switch {
	case s.options.Journal.Reached(api.Step_STEP_NODE):
		s.status.State, s.status.Message = api.State_STATE_MEMBER, complete
	case last.Failed():
		s.status.State, s.status.Message = api.State_STATE_FAILED, last.Detail+"; "+goOn
	default:
		s.status.State = api.State_STATE_FAILED
		s.status.Message = fmt.Sprintf("the bootstrapper was restarted at the step %q; %s", steps.Name(last.StepID()), goOn)
	}
}

// Look looks at the state disk, unless that is open, and keeps what it saw for Status.
func (s *Server) Look(ctx context.Context) StateDisk {
	d := s.options.Disk(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Disk, s.status.DiskUuid = d.Kind, d.UUID
	return d
}

// Hint tells people what the node waits for, while it waits for its owner.
func (s *Server) Hint(message string) {
	s.hint(api.State_STATE_WAITING, message)
}

// Joining tells people how far the node is with asking a cluster to let it in, while
// nobody is at work. It says whether that is so: who joins goes on asking.
func (s *Server) Joining(message string) bool {
	return s.hint(api.State_STATE_JOINING, message)
}

// hint says whether the node is idle; then it waits as state says.
func (s *Server) hint(state api.State, message string) bool {
	s.mu.Lock()
	idle := s.status.State != api.State_STATE_WORKING && s.status.State != api.State_STATE_MEMBER &&
		(s.status.State != api.State_STATE_FAILED || state == api.State_STATE_JOINING)
	changed := s.status.Message != message || s.status.State != state
	if idle {
		s.status.State, s.status.Message = state, message
	}
	s.mu.Unlock()
	if idle && changed {
		s.options.Say(message)
	}
	return idle
}

// observe keeps the status and the console up to date.
func (s *Server) observe(cluster keys.ClusterID, e *api.Progress) {
	ended := e.State == api.Progress_STATE_DONE || e.State == api.Progress_STATE_SKIPPED
	s.mu.Lock()
	s.status.Step, s.status.Message = e.Step, e.Detail
	if e.Step == api.Step_STEP_LOCK && ended {
		s.status.ClusterId = cluster[:]
	}
	s.mu.Unlock()
	name := steps.Name(e.Step)
	switch e.State {
	case api.Progress_STATE_STARTED:
		s.options.Say(fmt.Sprintf("Step %q", name))
	case api.Progress_STATE_UPDATE:
		// Numbers change too often for a console.
		if e.Total == 0 {
			s.options.Say(fmt.Sprintf("  %s: %s", name, e.Detail))
		}
	case api.Progress_STATE_SKIPPED:
		s.options.Say(fmt.Sprintf("  %s: was done before", name))
	}
}
