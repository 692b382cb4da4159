// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
)

// TestTrust: a node is accepted untouched, and as one of this cluster; not as one of
// another, nor once the acceptance has ended.
func TestTrust(t *testing.T) {
	data, err := os.ReadFile("../evidence/testdata/recorded/measurements.json")
	if err != nil {
		t.Fatal(err)
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		t.Fatal(err)
	}
	ours, other := bytes.Repeat([]byte{7}, measurements.ClusterIDSize), bytes.Repeat([]byte{8}, measurements.ClusterIDSize)
	end := time.Now().Add(time.Hour)
	trust := Trust{
		Predictions: []*measurements.Prediction{p}, NotAfter: end, ClusterID: ours,
		Inventory: []policy.Entry{{
			Identity: attestation.Identity{Kind: attestation.EndorsementKey, Value: bytes.Repeat([]byte{1}, 32)},
			Grant:    attestation.Grant{Name: "node-1", Role: policy.ControlPlane},
		}},
	}
	check := func(trust Trust, banks measurements.Banks, now time.Time) attestation.Reason {
		d, err := trust.document()
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.CheckPCRs(banks, now)
		return attestation.ReasonOf(err)
	}
	stranger := trust
	stranger.ClusterID = nil
	for _, tc := range []struct {
		name  string
		trust Trust
		banks measurements.Banks
		now   time.Time
		want  attestation.Reason
	}{
		{"untouched", trust, p.PCRs, time.Now(), 0},
		{"of this cluster", trust, p.Initialized(ours).PCRs, time.Now(), 0},
		{"of another cluster", trust, p.Initialized(other).PCRs, time.Now(), attestation.ReasonMeasurements},
		{"of a cluster that nobody named", stranger, p.Initialized(ours).PCRs, time.Now(), attestation.ReasonMeasurements},
		{"untouched, and no cluster named", stranger, p.PCRs, time.Now(), 0},
		{"too late", trust, p.PCRs, end.Add(time.Second), attestation.ReasonExpired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := check(tc.trust, tc.banks, tc.now); got != tc.want {
				t.Errorf("refused for %v, want %v", got, tc.want)
			}
		})
	}
	if _, err := (Trust{Predictions: trust.Predictions, NotAfter: end}).Verifier(); err == nil {
		t.Error("nobody vouches for a TPM, and there is a verifier")
	}
}
