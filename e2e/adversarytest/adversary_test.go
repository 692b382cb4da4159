// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package adversarytest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/constellation-os/constellation/e2e/adversarytest"
)

// TestAdversary: every attack that needs no machine, against JoinService in this process.
// Its API server and its KeyService are in memory, the TPMs are real.
func TestAdversary(t *testing.T) {
	s := newService(t)
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *adversarytest.Cluster)
	}{
		{"another image", adversarytest.AnotherImage},
		{"another command line", adversarytest.AnotherCommandLine},
		{"V7 another machine's TPM", adversarytest.AnotherTPM},
		{"V19 a machine of another cluster", adversarytest.AnotherCluster},
		{"V4 replayed evidence", adversarytest.Replayed},
		{"V3 relayed evidence", adversarytest.Relayed},
		{"V17 files of the control plane", adversarytest.ControlPlaneFiles},
		{"V17 another's name", adversarytest.AnothersName},
		{"V17 another's disk", adversarytest.AnothersDisk},
		{"V17 a worker that was admitted", adversarytest.Worker},
		{"V19 a false JoinService", adversarytest.FalseServices},
		{"a clock that is a year ahead", adversarytest.ClockAhead},
		{"a clock that is a year behind", adversarytest.ClockBehind},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.run(t, s.Cluster) })
	}
	t.Run("a control plane that is cut off from its API server", func(t *testing.T) {
		s.objects.Fault = func(context.Context, string, string) error { return errors.New("cut off") }
		adversarytest.APIServerAway(t, s.Cluster)
	})
}
