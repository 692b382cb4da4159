// SPDX-License-Identifier: Apache-2.0

package join

import (
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/attestation/tpm/tpmtest"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/provider"
)

// TestV19Evidence: with the evidence that machines have. A fresh machine and one that has
// locked itself are let in; a service's machine has to be of the cluster, where the
// cluster's own policy lets fresh ones in.
func TestV19Evidence(t *testing.T) {
	c := emptyCluster(t)
	fresh := tpmtest.Prediction(image, 100)
	locked := fresh.Initialized(c.id[:])
	service, machine, again := device(t, locked), device(t, fresh), device(t, locked)
	document := tpmPolicy(t, fresh, locked, time.Time{}, map[string]*tpmtest.Machine{"control-plane-1": service, "worker-1": machine, "worker-2": again})
	judge := func(d *policy.Document) (attestation.Verifier, error) {
		return tpm.NewVerifier(d, tpm.VerifierOptions{})
	}
	c.start(joinservice.NewPolicy(tpm.Technology, judge, nil), document)
	at, stop := c.serve(loopback, 0, service)
	ask := func(name string, m *tpmtest.Machine, uuid string) (*Ticket, error) {
		return (&Asker{Provider: &surroundings{
			self: provider.Self{Name: name, Role: provider.Worker}, endpoint: "127.0.0.1:6443", cluster: &provider.Cluster{ID: c.id, Policy: document},
		}, Issuer: m, Judge: judge, Port: int(at.Port())}).Ask(t.Context(), Disk{UUID: uuid, Fresh: true})
	}
	for name, m := range map[string]*tpmtest.Machine{"worker-1": machine, "worker-2": again} {
		uuid := map[string]string{"worker-1": diskA, "worker-2": diskB}[name]
		ticket, err := ask(name, m, uuid)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := ticket.Advance(t.Context(), uuid, disk.Generation{}, disk.Generation{}.After()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ticket.Close()
	}

	// A service on a machine that is listed, too, and belongs to no cluster.
	stop()
	at, _ = c.serve(loopback, 0, machine)
	_, err := ask("worker-1", machine, diskA)
	if err == nil || !strings.Contains(err.Error(), attestation.ReasonMeasurements.String()+": ") || !strings.Contains(err.Error(), "PCR 15") {
		t.Errorf("a service of no cluster: %v", err)
	}
}

func device(t *testing.T, p *measurements.Prediction) *tpmtest.Machine {
	t.Helper()
	m, err := tpmtest.New(tpmtest.Observed(p))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tpmPolicy accepts an image until some time, fresh and in a cluster, on these machines.
func tpmPolicy(t *testing.T, fresh, locked *measurements.Prediction, until time.Time, machines map[string]*tpmtest.Machine) []byte {
	t.Helper()
	set, err := accepted.FromPrediction(fresh, image, until)
	if err != nil {
		t.Fatal(err)
	}
	in, err := accepted.FromPrediction(locked, image, until)
	if err != nil {
		t.Fatal(err)
	}
	set.PCRs[measurements.ClusterPCR] = append(set.PCRs[measurements.ClusterPCR], in.PCRs[measurements.ClusterPCR]...)
	var inventory []policy.Entry
	for name, m := range machines {
		role := policy.Worker
		if strings.HasPrefix(name, policy.ControlPlane) {
			role = policy.ControlPlane
		}
		inventory = append(inventory, policy.Entry{Identity: m.Identity(), Grant: attestation.Grant{Name: name, Role: role}})
	}
	data, err := policy.Draft{Measurements: []accepted.Set{*set}, Inventory: inventory}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}
