// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/kubeadm"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/join"
	"github.com/constellation-os/constellation/services/bootstrapper/node"
	"github.com/constellation-os/constellation/services/bootstrapper/record"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/provider"
)

// joiner has this machine join the cluster that its surroundings name.
func joiner(server *bootstrapper.Server, m *machine, issuer attestation.Issuer) *join.Joiner {
	return &join.Joiner{
		Machine: &candidate{machine: m, server: server},
		Asker: &join.Asker{Provider: m.around, Issuer: issuer, Judge: func(d *policy.Document) (attestation.Verifier, error) {
			return tpm.NewVerifier(d, tpm.VerifierOptions{})
		}},
	}
}

// candidate is this machine as a [join.Machine].
type candidate struct {
	*machine
	server *bootstrapper.Server
	fresh  string // what a blank disk will be called
}

// Disk implements join.Machine.
func (c *candidate) Disk(ctx context.Context) (d join.Disk, err error) {
	switch found := c.server.Look(ctx); found.Kind {
	case api.Disk_DISK_NODE:
		return join.Disk{UUID: found.UUID}, nil
	case api.Disk_DISK_FRESH:
		if c.fresh == "" {
			c.fresh, err = newUUID()
		}
		return join.Disk{UUID: c.fresh, Fresh: true}, err
	default:
		return d, errors.New(found.Detail)
	}
}

// Waits implements join.Machine.
func (c *candidate) Waits(message string) bool { return c.server.Joining(message) }

// Member implements join.Machine.
func (c *candidate) Member() bool { return c.server.Member() }

// Become implements join.Machine.
func (c *candidate) Become(_ context.Context, t *join.Ticket) error {
	ring, err := masterSecret(t)
	if err != nil {
		t.Close()
		return err
	}
	err = c.server.Join(&bootstrapper.Task{
		Cluster: t.Cluster, Wipe: func() { t.Close(); ring.Wipe() },
		Plan: func() (*steps.Plan, error) { return c.joining(t, ring), nil },
	})
	if bootstrapper.ProblemOf(err).GetReason() == api.Problem_REASON_BUSY {
		return join.ErrBusy
	}
	return err
}

// masterSecret is the one in a ticket for the control plane; an empty one in others.
func masterSecret(t *join.Ticket) (*keys.Keyring, error) {
	if t.ControlPlane == nil {
		return &keys.Keyring{}, nil
	}
	return keys.Parse(t.ControlPlane.GetMasterSecret())
}

// joining makes the plan of a node for which its cluster has issued a ticket. The cluster
// remembers the disk's generation.
func (m *machine) joining(t *join.Ticket, ring *keys.Keyring) *steps.Plan {
	d := m.stateDisk(steps.TicketKey{UUID: t.Disk.UUID, Key: t.DiskKey}, t)
	lock := &steps.Lock{Register: register, Cluster: t.Cluster}
	if t.Disk.Fresh {
		d.NewUUID = func() (string, error) { return t.Disk.UUID, nil }
	} else {
		lock.Before = d.Fits
	}
	d.Settle = func() error {
		if err := m.journal.Settle(); err != nil {
			return err
		}
		return remember(t)
	}
	return &steps.Plan{Steps: []steps.Step{lock, d}, Then: func() ([]steps.Step, error) { return m.joined(t, ring) }}
}

// remember writes the record of a node that joins, or brings it up to date.
func remember(t *join.Ticket) error {
	n, err := nodeRecord.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		n = &record.Node{
			Role: t.Role, Name: t.Name, Cluster: t.Cluster.String(), ClusterName: t.Parameters.GetName(),
			APIServerNames: t.Parameters.GetApiServerNames(), Components: string(t.Parameters.GetComponentSet()),
			PodNetwork: t.Parameters.GetPodNetwork(), ServiceNetwork: t.Parameters.GetServiceNetwork(),
		}
	case err != nil:
		return err
	case n.Cluster != t.Cluster.String() || n.Name != t.Name || n.Role != t.Role:
		return &steps.Failure{Reason: api.Problem_REASON_OTHER_CLUSTER, Advice: "Give the machine its own disk, or a blank one.",
			Err: fmt.Errorf("the state disk is that of %s %s of cluster %.8s, and the ticket is for %s %s of cluster %.8s", n.Role, n.Name, n.Cluster, t.Role, t.Name, t.Cluster)}
	}
	n.Policy, n.Endpoint, n.Sources = t.Policy, t.Parameters.GetEndpoint(), t.Parameters.GetSources()
	return nodeRecord.Save(n)
}

// joined makes the steps of a node whose disk was opened with a ticket.
func (m *machine) joined(t *join.Ticket, ring *keys.Keyring) ([]steps.Step, error) {
	n, err := nodeRecord.Load()
	if err != nil {
		return nil, err
	}
	if n.Role == provider.Worker {
		return m.worker(n, &node.KubeletCredentials{Root: root, Endpoint: n.Endpoint, Authority: t.Parameters.GetAuthority(), Certificate: t.Certificate, Key: t.Key})
	}
	if n.First {
		return m.returning(n, ring, nil)
	}
	given := map[string][]byte{}
	for _, f := range t.ControlPlane.GetFiles() {
		given[filepath.Join(node.ControlPlaneFiles, f.Path)] = f.Content
	}
	return m.returning(n, ring, &steps.Further{
		Given: given,
		Etcd:  &node.Etcd{Root: root, Node: n.Name, Address: node.Address, Others: t.ControlPlanes()},
	})
}

// worker makes the steps of a worker once its disk is open.
func (m *machine) worker(n *record.Node, credentials *node.KubeletCredentials) ([]steps.Step, error) {
	set, err := m.set(n.Components)
	if err != nil {
		return nil, err
	}
	network, err := n.Network()
	if err != nil {
		return nil, err
	}
	if err := m.journal.Adopt("", n.Name); err != nil {
		return nil, err
	}
	delivery := &node.Delivery{Set: set, Sources: n.Sources}
	return []steps.Step{
		&steps.Components{Delivery: delivery},
		&steps.Runtime{Units: m.units, Delivery: delivery},
		&steps.Kubelet{Units: m.units, Files: node.Files(root), Credentials: credentials, Render: func() (map[string][]byte, error) {
			address, err := node.Address()
			if err != nil {
				return nil, err
			}
			return kubeadm.RenderKubelet(kubeadm.Kubelet{NodeName: n.Name, NodeAddress: address.String(), Network: network})
		}},
		&steps.Node{Cluster: &node.Cluster{Config: node.KubeletConfig, Node: n.Name, Booted: node.Booted}},
	}, nil
}
