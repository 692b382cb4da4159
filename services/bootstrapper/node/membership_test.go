// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
)

// newMembership is that of a machine with an open disk, in a cluster of nobody.
func newMembership() (*Membership, *bindingstest.Memory, *journal.Opened) {
	cluster := bindingstest.New()
	opened := &journal.Opened{UUID: "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283", Number: 1, ID: strings.Repeat("ab", 16), KeyVersion: 2}
	return &Membership{
		Objects: func() (bindings.Objects, error) { return cluster, nil },
		Device:  attestation.Identity{Kind: attestation.EndorsementKey, Value: bytes.Repeat([]byte{7}, 32)},
		Name:    "control-plane-0", Role: "control-plane",
		Address: func() (netip.Addr, error) { return netip.MustParseAddr("10.77.0.10"), nil },
		Opened:  func() *journal.Opened { return opened },
	}, cluster, opened
}

func enter(t *testing.T, m *Membership, want steps.Outcome) {
	t.Helper()
	if got, err := m.Enter(t.Context()); err != nil || got != want {
		t.Fatalf("outcome %v, %v, want %v", got, err, want)
	}
}

// TestEnter: the machine is known as one that JoinService has let in, and its disk's next
// step is witnessed.
func TestEnter(t *testing.T) {
	m, cluster, opened := newMembership()
	enter(t, m, steps.Done)
	enter(t, m, steps.Skipped)
	b := bindings.New(cluster, nil)
	n, err := b.Named(t.Context(), m.Name)
	if err != nil {
		t.Fatal(err)
	}
	now := disk.Generation{Number: opened.Number, ID: opened.ID}
	if n.Device != bindings.Device(m.Device) || n.Role != m.Role || n.Disk != opened.UUID || n.KeyVersion != 2 || n.Known != now || n.Address != "10.77.0.10" {
		t.Errorf("the cluster knows %+v", n)
	}
	// It was opened again, and nobody was asked.
	opened.Number, opened.ID = 2, strings.Repeat("cd", 16)
	enter(t, m, steps.Done)
	if n, err = b.Node(t.Context(), n.Device); err != nil || n.Known.Number != 2 {
		t.Errorf("the cluster knows %+v, %v", n, err)
	}
}

func TestEnterIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Membership, *journal.Opened)
		says   string
	}{
		"another name": {func(m *Membership, _ *journal.Opened) { m.Name = "control-plane-1" }, "the machine is node control-plane-0, not control-plane-1"},
		"another disk": {func(_ *Membership, o *journal.Opened) { o.UUID = "7" + o.UUID[1:] }, "node control-plane-0 has disk 6f1a3c0e"},
		"another machine": {func(m *Membership, _ *journal.Opened) { m.Device.Value = bytes.Repeat([]byte{8}, 32) },
			"name-control-plane-0 belongs to device"},
		"no disk": {func(m *Membership, _ *journal.Opened) { m.Opened = func() *journal.Opened { return nil } }, "does not say which state disk is open"},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, _, opened := newMembership()
			enter(t, m, steps.Done)
			tc.change(m, opened)
			if _, err := m.Enter(t.Context()); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %v, want %q", name, err, tc.says)
			}
		})
	}
}

// TestEnterWaitsForTheAPIServer: one that has only just started refuses at first.
func TestEnterWaitsForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, cluster, _ := newMembership()
		left := 20
		cluster.Fault = func(context.Context, string, string) error {
			if left--; left >= 0 {
				return errors.New("connection refused")
			}
			return nil
		}
		enter(t, m, steps.Done)
		left = 1000
		if _, err := m.Enter(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("without an end: %v", err)
		}
	})
}
