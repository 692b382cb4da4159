// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
)

// TestOfCluster: of PCR 15, the cluster's value alone is accepted, as long as the policy
// accepts any there; of the others all stays as it was, and so does the policy itself.
func TestOfCluster(t *testing.T) {
	d, err := Parse(encode(t, good(t)))
	if err != nil {
		t.Fatal(err)
	}
	id := bytes.Repeat([]byte{0xc1}, measurements.ClusterIDSize)
	ours, err := d.OfCluster(id)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(id)
	member := sha256.Sum256(append(make([]byte, 32), hash[:]...))
	listed := measurements.Digest(bytes.Repeat([]byte{0xab}, 32))
	now := time.Date(2029, 12, 31, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		policy *Document
		pcr15  measurements.Digest
		pcr9   measurements.Digest
		now    time.Time
		want   attestation.Reason
	}{
		{"a member", ours, member[:], listed, now, 0},
		{"a member of another image", ours, member[:], member[:], now, attestation.ReasonMeasurements},
		{"a member of an image that was accepted once", ours, member[:], listed, now.AddDate(0, 0, 2), attestation.ReasonExpired},
		{"what the policy accepts", ours, listed, listed, now, attestation.ReasonMeasurements},
		{"a fresh machine", ours, make([]byte, 32), listed, now, attestation.ReasonMeasurements},
		{"the policy, as it was", d, listed, listed, now, 0},
		{"the policy, of a member", d, member[:], listed, now, attestation.ReasonMeasurements},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pcrs := measurements.PCRs{}
			for _, pcr := range measurements.MandatoryPCRs() {
				pcrs[pcr] = listed
			}
			pcrs[9], pcrs[15] = tc.pcr9, tc.pcr15
			if _, err := tc.policy.CheckPCRs(measurements.Banks{measurements.SHA256: pcrs}, tc.now); attestation.ReasonOf(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := d.OfCluster(id[:31]); err == nil || !strings.Contains(err.Error(), "32 bytes, not 31") {
		t.Errorf("a short identity: %v", err)
	}
	if _, err := new(Document).OfCluster(id); err == nil || !strings.Contains(err.Error(), "it lacks measurements") {
		t.Errorf("no policy: %v", err)
	}
}
