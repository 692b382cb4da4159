// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"fmt"
	"maps"
	"slices"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Credentials are kubelet's: by what it knows the API servers, and they know it.
type Credentials interface {
	// Install puts them in their place, whole and written back to the disk. It says
	// [Skipped] if what is there is to be kept.
	Install() (Outcome, error)
}

// Kubelet starts kubelet on a node that has no control plane.
type Kubelet struct {
	Units       Units
	Files       Files
	Credentials Credentials
	// Render makes kubelet's configuration, by path.
	Render func() (map[string][]byte, error)
}

// ID implements [Step].
func (*Kubelet) ID() api.Step { return api.Step_STEP_KUBELET }

// Run implements [Step].
func (k *Kubelet) Run(ctx context.Context, _ Report) (Outcome, error) {
	files, err := k.Render()
	if err != nil {
		return Done, fmt.Errorf("make kubelet's configuration: %w", err)
	}
	outcome, err := writeAll(k.Files, files)
	if err != nil {
		return outcome, err
	}
	installed, err := k.Credentials.Install()
	if err != nil {
		return outcome, fmt.Errorf("install kubelet's credentials: %w", err)
	}
	gate, err := k.Files.Write(KubeletGate, []byte("open\n"))
	if err != nil {
		return outcome, err
	}
	started, err := ensure(ctx, k.Units, KubeletService)
	return both(both(outcome, installed), both(gate, started)), err
}

// writeAll writes files in the order of their paths.
func writeAll(to Files, files map[string][]byte) (Outcome, error) {
	outcome := Skipped
	for _, path := range slices.Sorted(maps.Keys(files)) {
		written, err := to.Write(path, files[path])
		if err != nil {
			return Done, err
		}
		outcome = both(outcome, written)
	}
	return outcome, nil
}
