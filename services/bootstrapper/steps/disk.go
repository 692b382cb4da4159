// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
)

// StateDiskTarget is reached once everything on the open state disk is mounted.
const StateDiskTarget = "state-disk.target"

// Mapper is the diskmapper. Its errors carry a diskmapper.Problem.
type Mapper interface {
	// Current returns the UUID of the disk that is open, or nothing.
	Current(ctx context.Context) (uuid string, err error)
	Inspect(ctx context.Context) (*diskmapper.InspectResponse, error)
	// Open opens the disk with the key. If uuid is not empty, it formats the disk before
	// and gives it that name. The witness judges the disk's generation; its errors are
	// returned, wrapped.
	Open(ctx context.Context, key []byte, uuid string, w disk.Witness) error
	// Problem returns what an error says, or nil.
	Problem(err error) *diskmapper.Problem
}

// Units are those of the service manager.
type Units interface {
	// Start starts a unit and waits until it has started: a service that says so, until it
	// is ready; one that runs once, until it has ended. A unit that runs stays as it is.
	Start(ctx context.Context, unit string) error
	// Active says whether a unit runs, and describes its state.
	Active(ctx context.Context, unit string) (active bool, state string, err error)
}

// Disk opens the state disk with the key that the cluster has for it.
type Disk struct {
	Mapper Mapper
	Units  Units
	// Keys has the disk's key.
	Keys DiskKeys
	// Witness remembers the disk's generation.
	Witness disk.Witness
	// NewUUID makes a name for a disk that is to be formatted; nil if none is to be.
	NewUUID func() (string, error)
	// Opening is told which generation the disk is about to have.
	Opening func(journal.Opened) error
	// Settle is called when the disk is mounted: the journal moves there.
	Settle func() error
}

// ID implements [Step].
func (*Disk) ID() api.Step { return api.Step_STEP_DISK }

// Run implements [Step].
func (d *Disk) Run(ctx context.Context, report Report) (Outcome, error) {
	outcome := Skipped
	current, err := d.Mapper.Current(ctx)
	if err != nil {
		return outcome, d.explain(err)
	}
	if current == "" {
		outcome = Done
		if err := d.open(ctx, report); err != nil {
			return outcome, err
		}
	}
	// What is open was opened since the machine booted, for the cluster that it is locked
	// to.
	if err := d.Units.Start(ctx, StateDiskTarget); err != nil {
		return outcome, fmt.Errorf("mount the state disk: %w", err)
	}
	if err := d.Settle(); errors.Is(err, journal.ErrOther) {
		return outcome, otherCluster("Send the request that the node became part of its cluster with, or give the machine a blank disk.", "%w", err)
	} else if err != nil {
		return outcome, err
	}
	return outcome, nil
}

func (d *Disk) open(ctx context.Context, report Report) error {
	found, err := d.Mapper.Inspect(ctx)
	if err != nil {
		return d.explain(err)
	}
	var uuid, format string
	switch found.Kind {
	case diskmapper.Kind_KIND_FRESH:
		if d.NewUUID == nil {
			return failure("Give the machine the disk that it had. If that is lost, the node is: remove it from the cluster, and let it join anew.",
				"the state disk is blank")
		}
		// Formatting that never finished leaves a fresh disk, so this name is not needed twice.
		if format, err = d.NewUUID(); err != nil {
			return err
		}
		uuid = format
		report(fmt.Sprintf("formatting a disk of %d MiB", found.Size>>20), 0, 0)
	case diskmapper.Kind_KIND_OURS:
		uuid = found.Uuid
		report("opening disk "+uuid, 0, 0)
	case diskmapper.Kind_KIND_FOREIGN:
		return failure("Nothing was written to it. If nobody needs what it holds, replace it with a blank disk and send the same Init again.",
			"the state disk holds something else: %s", found.Detail)
	case diskmapper.Kind_KIND_DAMAGED:
		return failure("Nothing was written to it. Replace it with a copy, or with a blank disk if this node's data is elsewhere, and send the same Init again.",
			"the state disk is damaged: %s", found.Detail)
	default:
		return failure(adviceAgain, "the diskmapper says of the state disk that it is %v", found.Kind)
	}
	return d.explain(d.unlock(ctx, uuid, format))
}

// unlock opens the disk with one of its keys.
func (d *Disk) unlock(ctx context.Context, uuid, format string) error {
	w := &noted{Witness: d.Witness, note: d.Opening}
	err := d.Keys.Try(ctx, uuid, func(key []byte, version keys.Version) (other bool, err error) {
		w.version = version
		err = d.Mapper.Open(ctx, key, format, w)
		return format == "" && d.unauthentic(err), err
	})
	if old := (*disk.RollbackError)(nil); errors.As(w.refused, &old) {
		return failure(adviceRolledBack, "%w", w.refused)
	}
	return err
}

const adviceRolledBack = "Somebody has put back an older copy of the disk. Give the machine the newest copy, or a blank disk."

// noted is a witness whose judgement is taken down before the disk goes on.
type noted struct {
	disk.Witness
	version keys.Version
	note    func(journal.Opened) error
	// refused is why the disk may not go on, in the witness's words.
	refused error
}

// Advance implements [disk.Witness].
func (n *noted) Advance(ctx context.Context, uuid string, from, to disk.Generation) error {
	if n.refused = n.Witness.Advance(ctx, uuid, from, to); n.refused != nil {
		return n.refused
	}
	return n.note(journal.Opened{UUID: uuid, Number: to.Number, ID: to.ID, KeyVersion: uint32(n.version)})
}

// unauthentic is the diskmapper's reason for a header that the key does not fit.
const unauthentic = "unauthentic"

func (d *Disk) unauthentic(err error) bool {
	return err != nil && d.Mapper.Problem(err).GetHeaderReason() == unauthentic
}

// explain adds what can be done about an error of the diskmapper.
func (d *Disk) explain(err error) error {
	if known := (*Failure)(nil); err == nil || errors.As(err, &known) {
		return err
	}
	problem := d.Mapper.Problem(err)
	switch problem.GetReason() {
	case diskmapper.Problem_REASON_NO_DISK:
		return failure("Give the machine one disk for its state and boot it again; docs/state-disk.md says how it is recognised.", "%w", err)
	case diskmapper.Problem_REASON_TOO_SMALL:
		return failure("Give the machine a larger disk.", "%w", err)
	case diskmapper.Problem_REASON_ROLLED_BACK:
		return failure(adviceRolledBack, "%w", err)
	case diskmapper.Problem_REASON_HEADER:
		if problem.HeaderReason != unauthentic {
			return failure("The disk's header was changed or is damaged. Give the machine a blank disk.", "%w", err)
		}
		return otherCluster("If the disk is another cluster's, use that cluster's master secret after a reboot, or give the machine a blank disk. If it is this cluster's, it was changed.",
			"this cluster's key does not fit the state disk: %w", err)
	}
	return err
}
