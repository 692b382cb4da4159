// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// prepared is what a node is given, before it is given.
type prepared struct {
	cluster     *api.Cluster
	certificate []byte
	control     *api.ControlPlane
	measurement []byte
	salt        []byte
	key         *keys.Key[keys.StateDisk]
}

func (p *prepared) wipe() {
	wipeControlPlane(p.control)
	clear(p.measurement)
	if p.key != nil {
		p.key.Wipe()
	}
}

// ticket moves the secrets into the message, which is wiped when it is encoded.
func (p *prepared) ticket(n *bindings.Node) *api.Ticket {
	defer p.key.Wipe()
	return &api.Ticket{
		Id: n.Ticket.ID, Lifetime: uint32(ticketLife / time.Second),
		StateDiskKey: p.key.Copy(), MeasurementSecret: p.measurement, Salt: p.salt,
	}
}

// prepare gathers all but the disk's key for the node c.name in the role c.role.
func (s *Server) prepare(ctx context.Context, c *call, request []byte) (*prepared, error) {
	cluster := s.Cluster()
	if cluster == nil {
		return nil, refuse(ReasonNotReady, "the cluster's parameters are not known yet")
	}
	secret, id, err := s.measurement.get(ctx, s.Keys, cluster.Salt)
	if err != nil {
		return nil, keysError(err)
	}
	p := &prepared{measurement: secret, salt: cluster.Salt}
	if err := checkCluster(c.claims, id); err != nil {
		p.wipe()
		return nil, err
	}
	authority, err := s.Authority.get(time.Now())
	if err == nil {
		p.certificate, err = authority.sign(request, c.name, s.Now())
	}
	if err == nil && c.role == policy.ControlPlane {
		p.control, err = s.Secrets.read()
	}
	if err != nil {
		p.wipe()
		return nil, err
	}
	p.cluster = &api.Cluster{
		Endpoint: cluster.Endpoint, Authority: authority.pem(), AuthorityHash: authority.hash(),
		ComponentSet: cluster.Components, Sources: cluster.Sources,
		Name: cluster.Name, ApiServerNames: cluster.APIServerNames,
		PodNetwork: cluster.PodNetwork, ServiceNetwork: cluster.ServiceNetwork,
	}
	return p, nil
}

// diskKey asks KeyService for one version of a disk's key, 0 for the newest.
func (s *Server) diskKey(ctx context.Context, p *prepared, uuid string, version keys.Version) (err error) {
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	if p.key, err = keys.Get[keys.StateDisk](ctx, s.Keys, uuid, disk.KeySize, version); err != nil {
		p.key = nil
		return keysError(err)
	}
	return nil
}

// measurement keeps the measurement secret, which never changes, and the identity that
// follows from it. The nodes of the control plane hold the master secret anyway.
type measurement struct {
	mu     sync.RWMutex
	secret *keys.Key[keys.Measurement]
}

// get returns a copy of the secret, and the cluster's identity.
func (m *measurement) get(ctx context.Context, source keys.Source, salt []byte) (secret []byte, id keys.ClusterID, err error) {
	m.mu.RLock()
	known := m.secret != nil
	m.mu.RUnlock()
	if !known {
		if err := m.ask(ctx, source); err != nil {
			return nil, id, err
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.secret == nil {
		return nil, id, keys.Errorf(keys.ClassInternal, "the service is ending")
	}
	if id, err = keys.NewClusterID(m.secret, salt); err != nil {
		return nil, id, err
	}
	return m.secret.Copy(), id, nil
}

// ask does not hold the others up, who may be asking as well.
func (m *measurement) ask(ctx context.Context, source keys.Source) error {
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	secret, err := keys.Get[keys.Measurement](ctx, source, keys.MeasurementID, keys.MeasurementSize, 0)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secret != nil {
		secret.Wipe()
		return nil
	}
	m.secret = secret
	return nil
}

func (m *measurement) wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secret != nil {
		m.secret.Wipe()
		m.secret = nil
	}
}
