// SPDX-License-Identifier: Apache-2.0

package join

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/attestation/tpm/tpmtest"
	"github.com/constellation-os/constellation/services/joinservice"
	"github.com/constellation-os/constellation/services/provider"
)

const year = 366 * 24 * time.Hour

// TestClockAhead: by the clock of a machine that is a year ahead, what the cluster booted
// has expired. Both sides say so, and nothing is asked for.
func TestClockAhead(t *testing.T) {
	c := emptyCluster(t)
	fresh := tpmtest.Prediction(image, 100)
	locked := fresh.Initialized(c.id[:])
	service, machine := device(t, locked), device(t, fresh)
	document := tpmPolicy(t, fresh, locked, time.Now().AddDate(0, 0, 365), map[string]*tpmtest.Machine{"control-plane-1": service, "worker-1": machine})
	by := func(now func() time.Time) func(d *policy.Document) (attestation.Verifier, error) {
		return func(d *policy.Document) (attestation.Verifier, error) {
			return tpm.NewVerifier(d, tpm.VerifierOptions{Now: now})
		}
	}
	c.start(joinservice.NewPolicy(tpm.Technology, by(time.Now), nil), document)
	c.observe = c.server.Handshake
	at, stop := c.serve(loopback, 0, service)
	ahead := func() time.Time { return time.Now().Add(year) }
	_, err := (&Asker{Provider: &surroundings{
		self: provider.Self{Name: "worker-1", Role: provider.Worker}, endpoint: "127.0.0.1:6443", cluster: &provider.Cluster{ID: c.id, Policy: document},
	}, Issuer: machine, Judge: by(ahead), Now: ahead, Port: int(at.Port())}).Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	var e *atls.Error
	if !errors.As(err, &e) || e.ByPeer || e.Reason != attestation.ReasonExpired || !strings.HasPrefix(err.Error(), "127.0.0.1: atls: the peer's evidence: expired: ") {
		t.Errorf("got %v", err)
	}
	stop()
	if log := c.log.String(); !strings.Contains(log, `"msg":"handshake","verdict":"refused","reason":"expired","error":"atls: the peer refused: expired"`) || strings.Contains(log, "granted") {
		t.Errorf("audit: %s", log)
	}
}

// TestClockBehind: a machine whose clock says that the cluster is not there yet could not
// believe its API server. It does not begin to become a node.
func TestClockBehind(t *testing.T) {
	c := newCluster(t)
	at, _ := c.serve(loopback, 0, c.service)
	a := c.asker(c.device(image), at)
	a.Now = func() time.Time { return time.Now().Add(-year) }
	_, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err == nil || !strings.HasPrefix(err.Error(), "127.0.0.1: its ticket cannot be used: the cluster's authority is valid from ") || !strings.Contains(err.Error(), "by this machine's clock it is ") {
		t.Errorf("got %v", err)
	}
	a.Now = func() time.Time { return time.Now().Add(-59 * time.Minute) } // of the hour that the authority is old
	ticket, err := a.Ask(t.Context(), Disk{UUID: diskA, Fresh: true})
	if err != nil {
		t.Fatalf("a clock that is a little late: %v", err)
	}
	ticket.Close()
}
