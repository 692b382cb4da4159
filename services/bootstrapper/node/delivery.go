// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/install"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Where components are, and containerd is asked to take their images.
const (
	ComponentsRoot   = "/opt/constellation"
	containerdSocket = "/run/containerd/containerd.sock"
)

// Delivery is a component set on its way to this node.
type Delivery struct {
	Set     *componentset.Set
	Sources []string

	installed *install.Installed
}

// Fetch implements steps.Delivery.
func (d *Delivery) Fetch(ctx context.Context, report steps.Report) (steps.Outcome, error) {
	outcome := steps.Done
	if current, err := install.Current(ComponentsRoot); err == nil && current.Set.Digest() == d.Set.Digest() {
		outcome = steps.Skipped
	}
	installed, err := install.Install(ctx, d.Set, install.Options{
		Root: ComponentsRoot, Sources: d.Sources,
		Progress: func(done, total int64, detail string) { report(detail, done, total) },
	})
	d.installed = installed
	return outcome, explain(err)
}

// explain tells errors that are not about the sources from those that are.
func explain(err error) error {
	var space *install.SpaceError
	var fetch *install.FetchError
	switch {
	case err == nil, errors.As(err, &fetch), errors.Is(err, install.ErrNoSources):
		return err
	case errors.As(err, &space):
		return &steps.Failure{Reason: api.Problem_REASON_STEP, Err: err, Advice: "Give the machine a larger state disk: a blank one, or this one grown."}
	}
	return &steps.Failure{Reason: api.Problem_REASON_STEP, Err: err, Advice: "Send the same Init again: what was fetched is kept."}
}

// Load implements steps.Delivery.
func (d *Delivery) Load(ctx context.Context) error {
	if d.installed == nil {
		return errors.New("nothing was fetched")
	}
	return install.Load(ctx, containerdSocket, d.installed)
}
