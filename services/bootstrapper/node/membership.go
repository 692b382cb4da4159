// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// How long an API server that has only just started may not take the machine, and how
// often it is tried.
const (
	enterTime  = time.Minute
	enterEvery = time.Second
)

// Membership enters this machine among the cluster's nodes, as JoinService does with
// those that it lets in: with the rights of an administrator, which the first node has.
type Membership struct {
	// Objects are the cluster's, of somebody who may change them.
	Objects func() (bindings.Objects, error)
	// Device is by what JoinService would know the machine.
	Device attestation.Identity
	// Name and Role of the node, and its address.
	Name, Role string
	Address    func() (netip.Addr, error)
	// Opened is the state disk as it was opened.
	Opened func() *journal.Opened
}

// LocalObjects are those of the cluster as this node's own API server has it.
func LocalObjects() (bindings.Objects, error) {
	config, err := LocalConfig()
	if err != nil {
		return nil, err
	}
	return bindings.NewKubernetes(config, bindings.Namespace)
}

// Enter implements steps.Members.
func (m *Membership) Enter(ctx context.Context) (steps.Outcome, error) {
	objects, err := m.Objects()
	if err != nil {
		return steps.Done, err
	}
	ctx, cancel := context.WithTimeout(ctx, enterTime)
	defer cancel()
	for {
		outcome, err := m.enter(ctx, bindings.New(objects, nil))
		var refusal *bindings.Refusal
		if err == nil || errors.As(err, &refusal) || ctx.Err() != nil {
			return outcome, err
		}
		select {
		case <-ctx.Done():
			return outcome, err
		case <-time.After(enterEvery):
		}
	}
}

func (m *Membership) enter(ctx context.Context, b *bindings.Bindings) (steps.Outcome, error) {
	opened := m.Opened()
	if opened == nil {
		return steps.Done, errors.New("the journal does not say which state disk is open: reboot the machine")
	}
	address, err := m.Address()
	if err != nil {
		return steps.Done, err
	}
	wish := bindings.Node{
		Device: bindings.Device(m.Device), Name: m.Name, Role: m.Role, Address: address.String(),
		Disk: opened.UUID, KeyVersion: keys.Version(opened.KeyVersion),
	}
	known := disk.Generation{Number: opened.Number, ID: opened.ID}
	n, err := b.Node(ctx, wish.Device)
	switch {
	case err == nil && n.Name == wish.Name && n.Role == wish.Role && n.Disk == wish.Disk && n.Known == known:
		return steps.Skipped, nil
	case err == nil && n.Known != (disk.Generation{}) && n.Name == wish.Name && n.Role == wish.Role && n.Disk == wish.Disk:
		// A ticket that it has stays good.
	default:
		if _, err := b.Bind(ctx, wish); err != nil {
			return steps.Done, fmt.Errorf("as %s: %w", m.Name, err)
		}
	}
	return steps.Done, b.Record(ctx, wish.Device, wish.Disk, known)
}
