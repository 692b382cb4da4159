// SPDX-License-Identifier: Apache-2.0

package tpmtest

import (
	"context"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// TestAccepted: the real verifier accepts the machine, challenge and all, and not for
// another machine's answer.
func TestAccepted(t *testing.T) {
	p := Prediction("image", 100)
	m, err := New(Observed(p))
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Observed(p))
	if err != nil {
		t.Fatal(err)
	}
	set, err := accepted.FromPrediction(p, "image", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := policy.Draft{Measurements: []accepted.Set{*set}, Inventory: []policy.Entry{
		{Identity: m.Identity(), Grant: attestation.Grant{Name: "node-1", Role: policy.Worker}},
	}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.NewVerifier(d, tpm.VerifierOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := attestation.Binding{1}
	e, err := m.Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	answeredBy := func(m *Machine) attestation.Challenger {
		return func(ctx context.Context, challenge []byte) ([]byte, error) { return m.Respond(ctx, b, challenge) }
	}
	claims, err := v.Verify(t.Context(), e, b, answeredBy(m))
	if err != nil {
		t.Fatal(err)
	}
	if claims.Grant == nil || claims.Grant.Name != "node-1" || len(claims.PCRs[measurements.SHA384]) != measurements.PCRCount {
		t.Errorf("claims: %+v", claims)
	}
	if _, err := v.Verify(t.Context(), e, b, answeredBy(other)); err == nil {
		t.Error("another machine answered")
	}
}
