// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Register is PCR 15 of the machine's TPM.
type Register interface {
	// Read returns its value in every active bank that measurements cover.
	Read(ctx context.Context) (measurements.Digests, error)
	// Extend extends these banks at once.
	Extend(ctx context.Context, digests measurements.Digests) error
}

// Lock marks the machine as the cluster's until it reboots: PCR 15, which is zero
// before, is extended with the cluster's identity, once.
type Lock struct {
	Register Register
	Cluster  keys.ClusterID
	// Before, if set, has to agree before the register is extended. Its errors leave the
	// machine as it is.
	Before func(context.Context) error
}

// ID implements [Step].
func (*Lock) ID() api.Step { return api.Step_STEP_LOCK }

// Run implements [Step].
func (l *Lock) Run(ctx context.Context, _ Report) (Outcome, error) {
	state, err := l.look(ctx)
	if err != nil || state == ours {
		return Skipped, err
	}
	if state == zero {
		if l.Before != nil {
			if err := l.Before(ctx); err != nil {
				if f := (*Failure)(nil); errors.As(err, &f) {
					f.Untouched = true
				}
				return Done, err
			}
		}
		digests, err := l.banks(ctx)
		if err != nil {
			return Done, err
		}
		if err := l.Register.Extend(ctx, digests); err != nil {
			return Done, fmt.Errorf("extend PCR 15: %w", err)
		}
		if state, err = l.look(ctx); err != nil || state == ours {
			return Done, err
		}
	}
	return Done, otherCluster(
		"Reboot the machine, which makes it nobody's, and verify it again before you send another Init.",
		"PCR 15 holds something else than the identity of cluster %x: since it booted, the machine belongs to another cluster", l.Cluster[:4])
}

// banks are the digests to extend, for the banks that the TPM has.
func (l *Lock) banks(ctx context.Context) (measurements.Digests, error) {
	values, err := l.Register.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read PCR 15: %w", err)
	}
	digests := measurements.ClusterDigests(l.Cluster[:])
	for a := range digests {
		if values[a] == nil {
			delete(digests, a)
		}
	}
	return digests, nil
}

// Whose a machine is.
type owner int

const (
	zero owner = iota
	ours
	another
)

// look says whose the machine is. Banks that disagree are another's.
func (l *Lock) look(ctx context.Context) (owner, error) {
	values, err := l.Register.Read(ctx)
	if err != nil {
		return another, fmt.Errorf("read PCR 15: %w", err)
	}
	if values[measurements.SHA256] == nil {
		return another, errors.New("read PCR 15: the TPM has no SHA-256 bank")
	}
	digests := measurements.ClusterDigests(l.Cluster[:])
	zeros, clusters := 0, 0
	for a, value := range values {
		switch {
		case bytes.Equal(value, a.Zero()):
			zeros++
		case bytes.Equal(value, a.Extend(a.Zero(), digests[a])):
			clusters++
		}
	}
	switch len(values) {
	case zeros:
		return zero, nil
	case clusters:
		return ours, nil
	}
	return another, nil
}
