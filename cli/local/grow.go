// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/services/provider"
)

// Flags that say how many machines there are to be: these are heeded later, too.
const (
	controlPlanesFlag = "control-planes"
	workersFlag       = "workers"
)

// check refuses what cannot be done.
func (f *upFlags) check(o Options) error {
	switch most := min(o.ControlPlanes, supervisor.MaxControlPlanes); {
	case f.controlPlanes > most && most == 1:
		return fmt.Errorf("--control-planes %d: a machine cannot become one more control plane of a cluster yet, so that there is one\nwhat to do: leave --control-planes out; --workers adds workers", f.controlPlanes)
	case f.controlPlanes < 1 || f.controlPlanes > most:
		return fmt.Errorf("--control-planes %d: want 1 to %d", f.controlPlanes, most)
	}
	if f.workers < 0 || f.workers > supervisor.MaxWorkers {
		return fmt.Errorf("--workers %d: want 0 to %d", f.workers, supervisor.MaxWorkers)
	}
	return nil
}

// grow adds the machines that a cluster lacks of what was asked for, and says what else
// was asked for in vain.
func (u *up) grow(spec *supervisor.Spec) (added []supervisor.MachineSpec, err error) {
	for _, kind := range []struct {
		flag  string
		role  provider.Role
		count int
	}{
		{controlPlanesFlag, provider.ControlPlane, u.flags.controlPlanes},
		{workersFlag, provider.Worker, u.flags.workers},
	} {
		i := slices.Index(u.chosen, "--"+kind.flag)
		if i < 0 {
			continue
		}
		u.chosen = slices.Delete(u.chosen, i, i+1)
		if have := spec.Count(kind.role); kind.count < have {
			return nil, refusef("--%s %d: the cluster has %d, and machines are not taken away by this command\nwhat to do: constellation local remove MACHINE --dir %s", kind.flag, kind.count, have, u.shown)
		}
		added = append(added, spec.Grow(kind.role, kind.count)...)
	}
	if len(u.chosen) > 0 {
		u.report.Notef("the cluster in %s is there and stays what it is: %s is not heeded", u.shown, strings.Join(u.chosen, ", "))
	}
	if len(added) == 0 {
		return nil, nil
	}
	err = u.options.Room(spec.Shape, len(added), string(u.dir))
	if err != nil {
		return nil, refusef("this computer has no room for %d more machines:\n%w", len(added), err)
	}
	return added, u.dir.WriteSpec(spec)
}

// refusal is an error of a command that changed nothing.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refusef(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }
