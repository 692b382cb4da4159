// SPDX-License-Identifier: Apache-2.0

package bindings_test

import (
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
)

const (
	device = "endorsement-key-sha256/abcd"
	uuid   = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"
)

// TestRecord: a disk that was opened without a witness comes back with one.
func TestRecord(t *testing.T) {
	b := bindings.New(bindingstest.New(), nil)
	now := disk.Generation{}.After()
	if err := b.Record(t.Context(), device, uuid, now); err == nil || !strings.Contains(err.Error(), "is no node of this cluster") {
		t.Fatalf("of nobody's disk: %v", err)
	}
	n := bindings.Node{Device: device, Name: "control-plane-1", Role: "control-plane", Disk: uuid, KeyVersion: 1}
	if _, err := b.Bind(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for _, g := range []disk.Generation{now, now, now.After().After()} {
		if err := b.Record(t.Context(), device, uuid, g); err != nil {
			t.Fatal(err)
		}
		now = g
	}
	if err := b.Record(t.Context(), device, strings.Replace(uuid, "6f", "7f", 1), now.After()); err == nil || !strings.Contains(err.Error(), "has disk "+uuid) {
		t.Errorf("of another disk: %v", err)
	}
	if err := b.Record(t.Context(), device, uuid, disk.Generation{}); err == nil || !strings.Contains(err.Error(), "a number from 1 on") {
		t.Errorf("of no generation: %v", err)
	}
	ticket := bindings.NewTicket(time.Now(), time.Minute)
	if _, err := b.Renew(t.Context(), device, uuid, "192.0.2.1", ticket); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Advance(t.Context(), device, ticket.ID, uuid, now, now.After()); err != nil {
		t.Errorf("the next step: %v", err)
	}
}
