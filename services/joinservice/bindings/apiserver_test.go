// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bindings

import (
	"errors"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

// TestLeaving: a node of the control plane whose object is deleted is no node any more, and
// its object stays until it is released. A worker's goes at once.
func TestLeaving(t *testing.T) {
	c := controlplanetest.Start(t)
	c.Namespace(t, Namespace)
	k, err := NewKubernetes(c.Admin, Namespace)
	if err != nil {
		t.Fatal(err)
	}
	ctx, b := t.Context(), New(k, nil)
	control, worker := someNode(), someNode()
	control.Device, control.Name, control.Role, control.Disk = "endorsement-key-sha256/ef01", "control-plane-2", policy.ControlPlane, "0"+control.Disk[1:]
	for _, n := range []*Node{control, worker} {
		if _, err := b.Bind(ctx, *n); err != nil {
			t.Fatal(err)
		}
	}
	// Whatever is written later, it stays so.
	if _, err := b.Renew(ctx, control.Device, control.Disk, "10.77.0.11", NewTicket(time.Now(), time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := b.Record(ctx, control.Device, control.Disk, disk.Generation{}.After()); err != nil {
		t.Fatal(err)
	}
	if leavers, err := k.Leaving(ctx); err != nil || len(leavers) != 0 {
		t.Fatalf("nobody leaves: %+v, %v", leavers, err)
	}

	for _, n := range []*Node{control, worker} {
		if err := k.client.Delete().Namespace(Namespace).Resource(resource).Name(nodeObject(n.Device)).Do(ctx).Error(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Node(ctx, n.Device); reasonOf(err) != ReasonUnknown {
			t.Errorf("%s, which was deleted: %v", n.Name, err)
		}
	}
	if _, err := b.Renew(ctx, control.Device, control.Disk, "10.77.0.11", NewTicket(time.Now(), time.Minute)); reasonOf(err) != ReasonUnknown {
		t.Errorf("it comes back: %v", err)
	}
	if _, err := b.Bind(ctx, *control); !errors.Is(err, ErrConflict) {
		t.Errorf("it joins anew before its etcd is gone: %v", err)
	}

	leavers, err := k.Leaving(ctx)
	if err != nil || len(leavers) != 1 || leavers[0].Name != "control-plane-2" || leavers[0].Address != "10.77.0.11" || leavers[0].Why != "" {
		t.Fatalf("who leaves: %+v, %v", leavers, err)
	}
	old := leavers[0]
	if err := k.Explain(ctx, old, "etcd has no majority"); err != nil {
		t.Fatal(err)
	}
	if leavers, err = k.Leaving(ctx); err != nil || len(leavers) != 1 || leavers[0].Why != "etcd has no majority" {
		t.Fatalf("who leaves: %+v, %v", leavers, err)
	}
	if err := k.Release(ctx, old); err == nil {
		t.Error("it is released as it was before somebody changed it")
	}
	for range 2 {
		if err := k.Release(ctx, leavers[0]); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if leavers, err = k.Leaving(ctx); err != nil || len(leavers) != 0 {
		t.Errorf("after all: %+v, %v", leavers, err)
	}
	if _, err := b.Bind(ctx, *control); err != nil {
		t.Errorf("it joins anew: %v", err)
	}
}
