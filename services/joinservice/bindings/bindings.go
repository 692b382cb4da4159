// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
)

// ClaimLife is how long a device that is not yet a node keeps a name and a disk. It is
// far longer than a request may take.
const ClaimLife = 10 * time.Minute

// attempts is how often something is tried that others change at the same moment.
const attempts = 8

// Objects keeps small named objects as the Kubernetes API does.
type Objects interface {
	// Get fails with ErrNotFound if there is none.
	Get(ctx context.Context, name string) (*Object, error)
	// Create fails with ErrExists if there is one.
	Create(ctx context.Context, o *Object) error
	// Update fails with ErrConflict if the object is not of o's version any more, and
	// with ErrNotFound if it is gone.
	Update(ctx context.Context, o *Object) error
}

// Object is one.
type Object struct {
	Name, Version string
	Data          map[string]string
}

// Bindings are those of one cluster.
type Bindings struct {
	objects Objects
	now     func() time.Time
}

// New makes them of objects. now is the time to judge by, the system's if nil.
func New(objects Objects, now func() time.Time) *Bindings {
	if now == nil {
		now = time.Now
	}
	return &Bindings{objects, now}
}

// Node is the node of a device. Without one the refusal is [ReasonUnknown].
func (b *Bindings) Node(ctx context.Context, device string) (*Node, error) {
	o, err := b.objects.Get(ctx, nodeObject(device))
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(ReasonUnknown, "device %s is no node of this cluster", device)
	}
	if err != nil {
		return nil, fmt.Errorf("read the node of device %s: %w", device, err)
	}
	return parseNode(o)
}

// Named is the node of a name. Without one the refusal is [ReasonUnknown].
func (b *Bindings) Named(ctx context.Context, name string) (*Node, error) {
	o, err := b.objects.Get(ctx, "name-"+name)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(ReasonUnknown, "no node is called %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the name %s: %w", name, err)
	}
	n, err := b.Node(ctx, o.Data[fieldDevice])
	if err == nil && n.Name != name {
		return nil, refuse(ReasonUnknown, "the name %s is claimed, and no node's yet", name)
	}
	return n, err
}

// Bind makes a device a node, or gives a node that it is a new ticket. The same wish may
// be repeated. Until its disk was opened for the first time, a node may come with another.
func (b *Bindings) Bind(ctx context.Context, wish Node) (*Node, error) {
	for range attempts {
		n, err := b.Node(ctx, wish.Device)
		if reasonOf(err) == ReasonUnknown {
			n, err = b.create(ctx, wish)
		} else if err == nil {
			n, err = b.again(ctx, n, wish)
		}
		if !changed(err) {
			return n, err
		}
	}
	return nil, fmt.Errorf("the node of device %s changed %d times meanwhile: %w", wish.Device, attempts, ErrConflict)
}

func (b *Bindings) create(ctx context.Context, wish Node) (*Node, error) {
	if err := b.claim(ctx, &wish, "name-"+wish.Name, ReasonNameTaken); err != nil {
		return nil, err
	}
	if err := b.claim(ctx, &wish, "disk-"+wish.Disk, ReasonDiskTaken); err != nil {
		return nil, err
	}
	wish.Known = disk.Generation{}
	if err := b.objects.Create(ctx, wish.object()); err != nil {
		return nil, fmt.Errorf("create the node of device %s: %w", wish.Device, err)
	}
	return &wish, nil
}

func (b *Bindings) again(ctx context.Context, n *Node, wish Node) (*Node, error) {
	switch {
	case n.Name != wish.Name:
		return nil, refuse(ReasonName, "the machine is node %s, not %s", n.Name, wish.Name)
	case n.Role != wish.Role:
		return nil, refuse(ReasonRole, "node %s joined as %s, not as %s", n.Name, n.Role, wish.Role)
	case n.Disk == wish.Disk:
	case n.Known != disk.Generation{}:
		return nil, refuse(ReasonDisk, "node %s has disk %s, not %s", n.Name, n.Disk, wish.Disk)
	default:
		if err := b.claim(ctx, &wish, "disk-"+wish.Disk, ReasonDiskTaken); err != nil {
			return nil, err
		}
		n.Disk, n.KeyVersion = wish.Disk, wish.KeyVersion
	}
	n.Ticket, n.Address = wish.Ticket, wish.Address
	return n, b.update(ctx, n)
}

// Renew gives a node that comes back with its disk, from an address, a new ticket.
func (b *Bindings) Renew(ctx context.Context, device, uuid, address string, t Ticket) (*Node, error) {
	return b.change(ctx, device, func(n *Node) (bool, error) {
		if n.Disk != uuid {
			return false, refuse(ReasonDisk, "node %s has disk %s, not %s", n.Name, n.Disk, uuid)
		}
		n.Ticket, n.Address = t, address
		return true, nil
	})
}

// Advance records a step of a disk's generation as [disk.Witness] says, for the holder of
// the node's last ticket. It may be called again for the same step.
func (b *Bindings) Advance(ctx context.Context, device, ticket, uuid string, from, to disk.Generation) (*Node, error) {
	return b.change(ctx, device, func(n *Node) (bool, error) {
		switch {
		case n.Disk != uuid:
			return false, refuse(ReasonDisk, "node %s has disk %s, not %s", n.Name, n.Disk, uuid)
		case n.Ticket.ID != ticket:
			return false, refuse(ReasonTicket, "it is not the last ticket of node %s", n.Name)
		case b.now().After(n.Ticket.Expires):
			return false, refuse(ReasonTicket, "it expired at %s", n.Ticket.Expires.Format(time.RFC3339))
		case n.Ticket.Used && n.Known != to:
			return false, refuse(ReasonTicket, "it was used for another step")
		}
		known, err := disk.Judge(uuid, n.Known, from, to)
		if err != nil || n.Ticket.Used {
			return false, err
		}
		n.Known, n.Ticket.Used = known, true
		return true, nil
	})
}

// Record takes down a disk's generation of which nobody was asked: that of a node which
// founded the cluster, or was recovered. Its caller is the node itself, with rights of an
// administrator, for the disk that is open.
func (b *Bindings) Record(ctx context.Context, device, uuid string, g disk.Generation) error {
	if err := CheckGeneration(g); err != nil {
		return err
	}
	_, err := b.change(ctx, device, func(n *Node) (bool, error) {
		if n.Disk != uuid {
			return false, refuse(ReasonDisk, "node %s has disk %s, not %s", n.Name, n.Disk, uuid)
		}
		write := n.Known != g
		n.Known = g
		return write, nil
	})
	return err
}

// change lets f change a node, again if somebody else did meanwhile. f says whether there
// is something to write.
func (b *Bindings) change(ctx context.Context, device string, f func(*Node) (bool, error)) (*Node, error) {
	for range attempts {
		n, err := b.Node(ctx, device)
		if err != nil {
			return nil, err
		}
		write, err := f(n)
		if err != nil || !write {
			return n, err
		}
		if err := b.update(ctx, n); !changed(err) {
			return n, err
		}
	}
	return nil, fmt.Errorf("the node of device %s changed %d times meanwhile: %w", device, attempts, ErrConflict)
}

func (b *Bindings) update(ctx context.Context, n *Node) error {
	if err := b.objects.Update(ctx, n.object()); err != nil {
		return fmt.Errorf("change node %s: %w", n.Name, err)
	}
	return nil
}

// changed says whether it was somebody else at the same moment, and trying again helps.
func changed(err error) bool {
	return errors.Is(err, ErrExists) || errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound)
}

func reasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// KeyVersion is which version of its disk's key a device was given; 0, the newest, if none.
func (b *Bindings) KeyVersion(ctx context.Context, device, uuid string) (keys.Version, error) {
	n, err := b.Node(ctx, device)
	switch {
	case reasonOf(err) == ReasonUnknown:
		return 0, nil
	case err != nil:
		return 0, err
	case n.Disk != uuid:
		return 0, nil
	}
	return n.KeyVersion, nil
}
