// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

// DiskKeys has the key of a state disk.
type DiskKeys interface {
	// Try calls try with the disk's key, and the key's version. If try says that it is another's, because the
	// disk does not say of which version its key is, older versions follow. It returns
	// the last error of try.
	Try(ctx context.Context, uuid string, try func(key []byte, version keys.Version) (other bool, err error)) error
}

// MasterKeys are those that follow from a master secret, the newest version first.
type MasterKeys struct {
	Keyring *keys.Keyring
}

// Try implements [DiskKeys].
func (m MasterKeys) Try(ctx context.Context, uuid string, try func([]byte, keys.Version) (bool, error)) (err error) {
	for _, version := range slices.Backward(m.Keyring.Versions()) {
		key, keyErr := keys.Get[keys.StateDisk](ctx, m.Keyring, uuid, disk.KeySize, version)
		if keyErr != nil {
			return fmt.Errorf("derive the state disk's key: %w", keyErr)
		}
		other := false
		key.Use(func(b []byte) { other, err = try(b, version) })
		key.Wipe()
		if !other {
			break
		}
	}
	return err
}

// TicketKey is the one key that a cluster has issued for a disk.
type TicketKey struct {
	UUID string
	Key  []byte
	// Version is the key's; 0 if nobody said.
	Version keys.Version
}

// Try implements [DiskKeys].
func (t TicketKey) Try(_ context.Context, uuid string, try func([]byte, keys.Version) (bool, error)) error {
	if uuid != t.UUID {
		return failure("Leave the machine the disk that it has asked with.", "the state disk is %s, and the ticket is for %s", uuid, t.UUID)
	}
	_, err := try(t.Key, t.Version)
	return err
}

// Fits finds out whether a disk's header is of one of the keys: the disk stays closed.
// It is for before the machine is locked. A disk that is open, or that cannot be opened
// for another reason, is for [Disk] to judge.
func (d *Disk) Fits(ctx context.Context) error {
	if current, err := d.Mapper.Current(ctx); err != nil || current != "" {
		return nil
	}
	found, err := d.Mapper.Inspect(ctx)
	if err != nil || found.Kind != diskmapper.Kind_KIND_OURS {
		return nil
	}
	// The diskmapper asks the witness once the header is authenticated, and goes on only
	// if it accepts.
	err = d.Keys.Try(ctx, found.Uuid, func(key []byte, _ keys.Version) (bool, error) {
		err := d.Mapper.Open(ctx, key, "", undecided{})
		return d.unauthentic(err), err
	})
	if d.unauthentic(err) {
		return d.explain(err)
	}
	return nil
}

// undecided is a witness that does not say whether the disk may go on.
type undecided struct{}

// Advance implements [disk.Witness].
func (undecided) Advance(context.Context, string, disk.Generation, disk.Generation) error {
	return errUndecided
}

var errUndecided = errors.New("the key fits; the disk stays closed for now")
