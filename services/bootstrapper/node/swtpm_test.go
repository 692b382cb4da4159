// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package node

import (
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// shared is a TPM that its users do not close.
type shared struct{ transport.TPM }

func (shared) Close() error { return nil }

// TestLock: on a real (software) TPM, PCR 15 takes a cluster's identity once, in both
// banks, and another cluster's Init is refused.
func TestLock(t *testing.T) {
	tpm := swtpmtest.Start(t, swtpmtest.NewAuthority(t))
	register := &Register{Open: func() (transport.TPMCloser, error) { return shared{tpm}, nil }}
	lock := func(cluster keys.ClusterID) (steps.Outcome, error) {
		return (&steps.Lock{Register: register, Cluster: cluster}).Run(t.Context(), nil)
	}
	cluster := keys.ClusterID{1, 2, 3}
	for i, want := range []steps.Outcome{steps.Done, steps.Skipped} {
		if got, err := lock(cluster); err != nil || got != want {
			t.Fatalf("attempt %d: %v, %v, want %v", i, got, err, want)
		}
	}
	values, err := register.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range measurements.Algorithms() {
		want := a.Extend(a.Zero(), measurements.ClusterDigests(cluster[:])[a])
		if values[a].String() != want.String() {
			t.Errorf("PCR 15 of %s is %v, want %v", a, values[a], want)
		}
	}
	_, err = lock(keys.ClusterID{4, 5, 6})
	f, ok := err.(*steps.Failure)
	if !ok || f.Reason != api.Problem_REASON_OTHER_CLUSTER {
		t.Errorf("another cluster: %v", err)
	}
	if again, err := register.Read(t.Context()); err != nil || again[measurements.SHA256].String() != values[measurements.SHA256].String() {
		t.Errorf("PCR 15 has changed: %v, %v", again, err)
	}
}
