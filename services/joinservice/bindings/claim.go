// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fieldSince is when a device last claimed a name or a disk.
const fieldSince = "since"

// claim makes an object the wishing device's, or refuses for it is another's.
func (b *Bindings) claim(ctx context.Context, wish *Node, object string, taken Reason) error {
	mine := &Object{Name: object, Data: map[string]string{fieldDevice: wish.Device, fieldSince: b.now().UTC().Format(time.RFC3339)}}
	err := b.objects.Create(ctx, mine)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrExists) {
		return fmt.Errorf("claim %s: %w", object, err)
	}
	there, err := b.objects.Get(ctx, object)
	if err != nil {
		return fmt.Errorf("read %s: %w", object, err)
	}
	if owner := there.Data[fieldDevice]; owner != wish.Device {
		holds, err := b.holds(ctx, there)
		if err != nil {
			return err
		}
		if holds {
			return refuse(taken, "%s belongs to device %s", object, owner)
		}
	}
	// Also if it is ours: nobody must think that it has lapsed.
	mine.Version = there.Version
	if err := b.objects.Update(ctx, mine); err != nil {
		return fmt.Errorf("claim %s: %w", object, err)
	}
	return nil
}

// holds says whether a claim is still good: fresh, or of the node that it was made for.
func (b *Bindings) holds(ctx context.Context, claim *Object) (bool, error) {
	since, err := time.Parse(time.RFC3339, claim.Data[fieldSince])
	if err != nil {
		return false, fmt.Errorf("object %s: %s: %w", claim.Name, fieldSince, err)
	}
	if b.now().Before(since.Add(ClaimLife)) {
		return true, nil
	}
	n, err := b.Node(ctx, claim.Data[fieldDevice])
	if reasonOf(err) == ReasonUnknown {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return claim.Name == "name-"+n.Name || claim.Name == "disk-"+n.Disk, nil
}
