// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// ContainerdService is the container runtime.
const ContainerdService = "containerd.service"

// Delivery is a component set on its way to this node.
type Delivery interface {
	// Fetch has every component verified and in its place, and says whether anything was
	// missing. It may be called again after any failure. An error that is not a Failure is
	// about the sources.
	Fetch(ctx context.Context, report Report) (Outcome, error)
	// Load gives the container runtime the images of the set that was fetched.
	// Images that it has already cost next to nothing.
	Load(ctx context.Context) error
}

// Components fetches and verifies the component set.
type Components struct {
	Delivery Delivery
}

// ID implements [Step].
func (*Components) ID() api.Step { return api.Step_STEP_COMPONENTS }

// Run implements [Step].
func (c *Components) Run(ctx context.Context, report Report) (Outcome, error) {
	outcome, err := c.Delivery.Fetch(ctx, report)
	if known := (*Failure)(nil); err != nil && !errors.As(err, &known) {
		return outcome, failure("Make sure that a source has every component of the set, unchanged, and that the node reaches it; then send the Init again, with other sources if you like.",
			"no source delivers: %w", err)
	}
	return outcome, err
}

// Runtime starts containerd and gives it the images.
type Runtime struct {
	Units    Units
	Delivery Delivery
}

// ID implements [Step].
func (*Runtime) ID() api.Step { return api.Step_STEP_RUNTIME }

// Run implements [Step].
func (r *Runtime) Run(ctx context.Context, report Report) (Outcome, error) {
	started, err := ensure(ctx, r.Units, ContainerdService)
	if err != nil {
		return started, err
	}
	report("images", 0, 0)
	if err := r.Delivery.Load(ctx); err != nil {
		return Done, fmt.Errorf("give containerd the images: %w", err)
	}
	return started, nil
}

// ensure starts a service unless it runs.
func ensure(ctx context.Context, u Units, unit string) (Outcome, error) {
	active, _, err := u.Active(ctx, unit)
	if err != nil {
		return Done, fmt.Errorf("ask for %s: %w", unit, err)
	}
	if active {
		return Skipped, nil
	}
	if err := u.Start(ctx, unit); err != nil {
		return Done, fmt.Errorf("start %s: %w", unit, err)
	}
	// One with a condition that is not met does not start, which is no failure to systemd.
	if active, state, err := u.Active(ctx, unit); err != nil || !active {
		return Done, errors.Join(fmt.Errorf("%s was started and is %s", unit, state), err)
	}
	return Done, nil
}

// both is what two parts of a step did together.
func both(a, b Outcome) Outcome {
	if a == Skipped {
		return b
	}
	return a
}
