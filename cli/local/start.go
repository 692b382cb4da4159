// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/services/provider"
)

// leaveOut finds out which machines are switched off. They are left out if there is
// something to do without them: if machines are added to a cluster that has a control plane.
func (u *up) leaveOut(ctx context.Context) error {
	s, err := supervisor.NewClient(u.dir).Status(ctx)
	if errors.Is(err, supervisor.ErrNotRunning) {
		return nil // all will be started
	}
	if err != nil {
		return err
	}
	off, controlled := map[string]bool{}, false
	for _, m := range s.Machines {
		switch m.State {
		case supervisor.StateFailed, supervisor.StateStopped:
			off[m.Name] = true
		case supervisor.StateRunning:
			controlled = controlled || m.Role == provider.ControlPlane
		}
	}
	if !controlled {
		return nil
	}
	u.off = off
	for _, name := range slices.Sorted(maps.Keys(off)) {
		u.report.Notef("%s is switched off, and is left out", name)
	}
	return nil
}

// wanted are the machines that are waited for.
func (u *up) wanted(spec *supervisor.Spec) (out []supervisor.MachineSpec) {
	for _, m := range spec.Machines {
		if !u.off[m.Name] {
			out = append(out, m)
		}
	}
	return out
}

// startMachines starts the supervisor, or lets the one that runs know of new machines,
// and waits until the first machine has booted, or if there is a cluster all of its
// control planes. The others go on booting.
func (u *up) startMachines(ctx context.Context, cancel context.CancelCauseFunc, spec *supervisor.Spec) (*supervisor.Status, error) {
	const step = "machines"
	client := supervisor.NewClient(u.dir)
	if u.dir.Running() {
		u.report.End(step, progress.Skipped, "the supervisor runs already")
		if err := client.Reload(ctx); err != nil {
			return nil, err
		}
	} else {
		u.report.Begin(step, "%d of %d CPUs and %d MiB of memory", len(spec.Machines), spec.Shape.CPUs, spec.Shape.MemoryMiB)
		if err := startSupervisor(ctx, u.dir); err != nil {
			return nil, err
		}
	}
	go func() {
		if client.Wait(ctx) == nil {
			cancel(errTakenDown)
		}
	}()
	stages := map[string]string{}
	for {
		s, err := u.running(ctx)
		if err != nil {
			return nil, err
		}
		booted, needed := 0, 0
		for _, m := range s.Machines {
			if u.off[m.Name] || m.Name != spec.First().Name && (spec.Cluster == nil || m.Role != provider.ControlPlane) {
				continue
			}
			needed++
			if m.State == supervisor.StateRunning {
				booted++
			} else if m.Stage != "" && stages[m.Name] != stateOf(m) {
				u.report.Updatef(step, "%s: %s", m.Name, m.Stage)
			}
			stages[m.Name] = stateOf(m)
		}
		if booted == needed {
			u.report.End(step, progress.Done, "%d booted", booted)
			return s, nil
		}
		if err := pause(ctx, poll); err != nil {
			return nil, err
		}
	}
}

// running is how the machines are, if none of them is off but those that are left out.
func (u *up) running(ctx context.Context) (*supervisor.Status, error) {
	s, err := supervisor.NewClient(u.dir).Status(ctx)
	switch {
	case errors.Is(err, supervisor.ErrNotRunning):
		return nil, errTakenDown
	case err != nil:
		return nil, firstOf(context.Cause(ctx), err)
	}
	for _, m := range s.Machines {
		if u.off[m.Name] {
			continue
		}
		switch m.State {
		case supervisor.StateFailed:
			return nil, fmt.Errorf("%s does not run: %s", m.Name, m.Reason)
		case supervisor.StateStopped:
			return nil, fmt.Errorf("%s is switched off\nwhat to do: constellation local start %[1]s --dir %[2]s", m.Name, u.shown)
		}
	}
	return s, nil
}

// pause waits, or ends with the context's cause.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
