// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/node"
	"github.com/constellation-os/constellation/services/bootstrapper/record"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/provider"
)

// nodeRecord is what the node knows of itself, on the state disk.
const nodeRecord = record.File(stateFolder + "/constellation/node.json")

// machine is what all steps of this machine use.
type machine struct {
	journal *journal.Journal
	mapper  grpc.ClientConnInterface
	units   *node.Systemd
	// device is what others know the machine by.
	device attestation.Identity
	// pins are the digests of the services that the image was built with.
	pins componentset.Pins
	// around are the machine's surroundings.
	around provider.Provider
}

// askTime is how long the surroundings have for an answer.
const askTime = 15 * time.Second

// set reads a component set, with the services that the image was built with.
func (m *machine) set(encoded string) (*componentset.Set, error) {
	set, err := componentset.Parse([]byte(encoded))
	if err != nil {
		return nil, err
	}
	if err := m.pins.Check(set); err != nil {
		return nil, &steps.Failure{Reason: api.Problem_REASON_STEP, Err: fmt.Errorf("the component set: %w", err),
			Advice: "Boot an image of the release that the cluster's component set is of."}
	}
	return set, nil
}

// stateDisk opens the disk for a node.
func (m *machine) stateDisk(of steps.DiskKeys, w disk.Witness) *steps.Disk {
	return &steps.Disk{
		Mapper: &node.Mapper{Conn: m.mapper}, Units: m.units, Keys: of, Witness: w,
		Opening: m.journal.Opening, Settle: m.journal.Settle,
	}
}

// recovery makes the plan of a node that comes back with the master secret alone: what
// else it takes is on its disk. An older copy of the disk is not noticed.
func (m *machine) recovery(r *bootstrapper.Recovery) (*steps.Plan, error) {
	if err := m.mayRecover(); err != nil {
		return nil, err
	}
	fmt.Println("Nobody remembers the state disk's generation: whether it is the newest copy is the owner's to know")
	d := m.stateDisk(steps.MasterKeys{Keyring: r.Keyring}, disk.Unwitnessed())
	return &steps.Plan{
		Steps: []steps.Step{&steps.Lock{Register: register, Cluster: r.Cluster, Before: d.Fits}, d},
		Then:  func() ([]steps.Step, error) { return m.comeBack(r) },
	}, nil
}

// mayRecover refuses for a worker, as far as the surroundings know: a disk that was opened
// without its cluster is not what the cluster remembers.
func (m *machine) mayRecover() error {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	self, err := m.around.Self(ctx)
	if err == nil && self.Role == provider.Worker {
		return errWorker
	}
	return nil
}

// errWorker is why a worker is not recovered.
var errWorker = &steps.Failure{
	Step: api.Step_STEP_LOCK, Reason: api.Problem_REASON_NOT_A_NODE, Untouched: true, Err: errors.New("the machine is a worker"),
	Advice: "Recover a node of the control plane: workers come back by themselves then.",
}

// comeBack makes the steps of a node whose disk is open, by its record.
func (m *machine) comeBack(r *bootstrapper.Recovery) ([]steps.Step, error) {
	n, err := nodeRecord.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &steps.Failure{Reason: api.Problem_REASON_NOT_A_NODE, Err: errors.New("the state disk has no record of a node: becoming one was cut off"),
			Advice: "If it was to be the first node, send the same Init again. Else let it join again, with a blank disk."}
	}
	if err != nil {
		return nil, err
	}
	if n.Cluster != r.Cluster.String() {
		return nil, &steps.Failure{Reason: api.Problem_REASON_OTHER_CLUSTER, Err: fmt.Errorf("the state disk's node belongs to cluster %.8s", n.Cluster),
			Advice: "Use that cluster's master secret after a reboot."}
	}
	if n.Role == provider.Worker {
		return nil, errWorker
	}
	return m.returning(n, r.Keyring, nil)
}

// returning makes the steps of a node of the control plane that comes back, or, with a
// ticket, becomes one.
func (m *machine) returning(n *record.Node, ring *keys.Keyring, further *steps.Further) ([]steps.Step, error) {
	request, err := bootstrapper.RequestOf(n, ring)
	if err != nil {
		return nil, err
	}
	if err := m.journal.Adopt(request.Fingerprint(), n.Name); err != nil {
		return nil, err
	}
	return m.controlPlane(request, n.First, further)
}

// look is what the state disk looks like.
func (m *machine) look(ctx context.Context) bootstrapper.StateDisk {
	mapper := &node.Mapper{Conn: m.mapper}
	if uuid, err := mapper.Current(ctx); err == nil && uuid != "" {
		return bootstrapper.StateDisk{Kind: api.Disk_DISK_NODE, UUID: uuid}
	}
	found, err := mapper.Inspect(ctx)
	if err != nil {
		return bootstrapper.StateDisk{Kind: api.Disk_DISK_UNUSABLE, Detail: err.Error()}
	}
	switch found.GetKind() {
	case diskmapper.Kind_KIND_FRESH:
		return bootstrapper.StateDisk{Kind: api.Disk_DISK_FRESH}
	case diskmapper.Kind_KIND_OURS:
		return bootstrapper.StateDisk{Kind: api.Disk_DISK_NODE, UUID: found.GetUuid()}
	}
	return bootstrapper.StateDisk{Kind: api.Disk_DISK_UNUSABLE, Detail: found.GetDetail()}
}

// hint says whose disk the machine has, which tells a node that was rebooted from a new one.
func (m *machine) hint(ctx context.Context, s *bootstrapper.Server) {
	switch d := s.Look(ctx); d.Kind {
	case api.Disk_DISK_FRESH:
		s.Hint("Waiting for the owner's Init; the state disk is blank")
	case api.Disk_DISK_NODE:
		s.Hint("Waiting for the owner's Recover; the state disk " + d.UUID + " is that of a node")
	default:
		s.Hint("Waiting for the owner's Init, which will fail: the state disk cannot be used: " + d.Detail)
	}
}
