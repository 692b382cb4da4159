// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
)

// TestFallOut: who would be let in again, and who would not, as JoinService judges.
func TestFallOut(t *testing.T) {
	inventoryOnly, firstCome := &policy.Document{}, &policy.Document{FirstComeWorkers: true}
	of := func(name string, controlPlane bool, grant *attestation.Grant) *result {
		return &result{Name: name, Verdict: verified, controlPlane: controlPlane, Claims: &attestation.Claims{Grant: grant}}
	}
	for _, tc := range []struct {
		name   string
		policy *policy.Document
		node   *result
		want   string
	}{
		{"a listed control plane", inventoryOnly, of("a", true, &attestation.Grant{Name: "a", Role: policy.ControlPlane}), ""},
		{"a listed worker", inventoryOnly, of("a", false, &attestation.Grant{Name: "a", Role: policy.Worker}), ""},
		{"a control plane that is not listed", firstCome, of("a", true, nil), "not-listed"},
		{"a worker that is not listed", inventoryOnly, of("a", false, nil), "not-listed"},
		{"a worker that came first", firstCome, of("a", false, nil), ""},
		{"a control plane that would be a worker", firstCome, of("a", true, &attestation.Grant{Name: "a", Role: policy.Worker}), "role"},
		{"a worker that would be a control plane", firstCome, of("a", false, &attestation.Grant{Name: "a", Role: policy.ControlPlane}), "role"},
		{"another image", firstCome, &result{Name: "a", Verdict: refused, Reason: "measurements", Detail: "PCR 9"}, "measurements"},
		{"nobody", firstCome, &result{Name: "a", Verdict: noAnswer, Reason: reasonUnreachable}, reasonUnreachable},
	} {
		r := &report{Nodes: []*result{of("other", false, &attestation.Grant{Name: "other", Role: policy.Worker}), tc.node}}
		want := []unfitted{}
		if tc.want != "" {
			want = []unfitted{{"a", tc.want, r.fallOut(tc.policy)[0].Detail}}
		}
		if diff := cmp.Diff(want, r.fallOut(tc.policy)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}
