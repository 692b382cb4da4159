// SPDX-License-Identifier: Apache-2.0

// Package steps makes a machine a node of a cluster, one step after the other:
//
//	Lock          PCR 15 takes the cluster's identity
//	Disk          the state disk is formatted, if it is fresh, opened and mounted
//	Components    Kubernetes is fetched and verified
//	Runtime       containerd runs and has the images
//	Secrets       the services that hold the master secret have it
//	ControlPlane  certificates and static pods are there, and kubelet runs
//	APIServer     the API server answers
//	Services      the cluster's own services are applied
//	Node          the node is ready
//
// # Doing it twice
//
// A node may lose its power, this process may be killed, and a step may fail, at
// any moment. Whoever comes next begins with the first step again. So each step
// looks at the machine, does what is missing, and says [Skipped] where nothing was.
// What cannot be seen by looking is in the journal (package journal).
//
// # Trust
//
// Steps believe the request, which the owner has sent to the node that it verified,
// and what is on the state disk once that is open, because it is authenticated.
// They do not believe the disk before, nor any source of components.
//
// Whatever is outside of this process is behind an interface that is declared where
// it is used. Package node has the real ones.
package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Outcome says what a step did.
type Outcome int

// Outcomes.
const (
	Done    Outcome = iota // something was missing, and is there now
	Skipped                // nothing was missing
)

// Report tells how a step goes on. The numbers are how much of it is done and how
// much there is, or zero.
type Report func(detail string, done, total int64)

// Step is a part of becoming a node.
type Step interface {
	ID() api.Step
	// Run does what is missing. Its errors hold no secret; a [Failure] among them has
	// advice.
	Run(ctx context.Context, report Report) (Outcome, error)
}

// Journal remembers what was done. [journal.Journal] is one.
type Journal interface {
	// Note adds an entry.
	Note(step api.Step, state api.Progress_State, detail string) error
	// Fail adds an entry about a step that failed.
	Fail(step api.Step, detail string) error
}

// Failure is an error with what its reader may do.
type Failure struct {
	Step   api.Step
	Reason api.Problem_Reason
	Advice string
	// Untouched says that the machine belongs to nobody as it did before.
	Untouched bool
	Err       error
}

// Error implements error.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns what happened.
func (f *Failure) Unwrap() error { return f.Err }

// failure makes a Failure of a step that cannot be done.
func failure(advice, format string, args ...any) error {
	return &Failure{Reason: api.Problem_REASON_STEP, Advice: advice, Err: fmt.Errorf(format, args...)}
}

// otherCluster makes a Failure of a node that is another cluster's.
func otherCluster(advice, format string, args ...any) error {
	return &Failure{Reason: api.Problem_REASON_OTHER_CLUSTER, Advice: advice, Err: fmt.Errorf(format, args...)}
}

// Plan is what becoming a node consists of.
type Plan struct {
	Steps []Step
	// Then, if set, makes the steps that follow from what these have brought to light:
	// what is on the state disk. Its error is a failure of the last of them.
	Then func() ([]Step, error)
}

// Sequence carries out a plan.
type Sequence struct {
	Plan
	Journal Journal
	// Observe is told of everything that happens.
	Observe func(*api.Progress)
	// Limit is how long each step may take.
	Limit func(api.Step) time.Duration
}

// adviceAgain is for failures of which no more is known.
const adviceAgain = "Send the same Init again: the node goes on where it is. If that fails the same way, the node's journal says more."

// Run does all steps. Its error is a *Failure of one of them.
func (s *Sequence) Run(ctx context.Context) error {
	if err := s.all(ctx, s.Steps); err != nil || s.Then == nil {
		return err
	}
	rest, err := s.Then()
	if err != nil {
		last := s.Steps[len(s.Steps)-1].ID()
		return asFailure(last, errors.Join(err, s.Journal.Fail(last, err.Error())))
	}
	return s.all(ctx, rest)
}

func (s *Sequence) all(ctx context.Context, list []Step) error {
	for _, step := range list {
		if err := s.run(ctx, step); err != nil {
			return asFailure(step.ID(), err)
		}
	}
	return nil
}

func asFailure(step api.Step, err error) error {
	f := &Failure{Step: step, Reason: api.Problem_REASON_STEP, Advice: adviceAgain, Err: err}
	if known := (*Failure)(nil); errors.As(err, &known) {
		f.Reason, f.Advice, f.Untouched = known.Reason, known.Advice, known.Untouched
	}
	return f
}

func (s *Sequence) run(ctx context.Context, step Step) error {
	id, all := step.ID(), ctx
	ctx, cancel := context.WithTimeout(ctx, s.Limit(id))
	defer cancel()
	if err := s.note(id, api.Progress_STATE_STARTED); err != nil {
		return err
	}
	outcome, err := step.Run(ctx, func(detail string, done, total int64) {
		s.Observe(&api.Progress{Step: id, State: api.Progress_STATE_UPDATE, Detail: detail, Done: done, Total: total})
	})
	if err != nil {
		if all.Err() != nil {
			return err // the service ends, which is no failure of the step
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %v: %w", s.Limit(id), err)
		}
		// Why the step failed matters more than that the journal could not be written.
		return errors.Join(err, s.Journal.Fail(id, err.Error()))
	}
	if outcome == Skipped {
		return s.note(id, api.Progress_STATE_SKIPPED)
	}
	return s.note(id, api.Progress_STATE_DONE)
}

// note writes the journal before anybody is told: what was reported is remembered.
func (s *Sequence) note(id api.Step, state api.Progress_State) error {
	if err := s.Journal.Note(id, state, ""); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	s.Observe(&api.Progress{Step: id, State: state})
	return nil
}

// names of steps, for people.
var names = map[api.Step]string{
	api.Step_STEP_LOCK:          "lock",
	api.Step_STEP_DISK:          "state disk",
	api.Step_STEP_COMPONENTS:    "components",
	api.Step_STEP_RUNTIME:       "container runtime",
	api.Step_STEP_SECRETS:       "secrets",
	api.Step_STEP_CONTROL_PLANE: "control plane",
	api.Step_STEP_API_SERVER:    "API server",
	api.Step_STEP_SERVICES:      "services",
	api.Step_STEP_KUBELET:       "kubelet",
	api.Step_STEP_NODE:          "node",
}

// Name is what people call a step.
func Name(step api.Step) string {
	if name, ok := names[step]; ok {
		return name
	}
	return step.String()
}

// Limit is how long a step may take on a slow and busy machine, many times what it
// takes on an idle one.
func Limit(step api.Step) time.Duration {
	switch step {
	case api.Step_STEP_LOCK, api.Step_STEP_SECRETS:
		return 5 * time.Minute
	case api.Step_STEP_COMPONENTS:
		return 2 * time.Hour // of a download; one that stalls ends before
	default:
		return 20 * time.Minute
	}
}
