// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/provider"
)

// Ticket is what a cluster gives a machine that it lets in.
type Ticket struct {
	// Cluster is the identity that follows from the ticket's secrets, and is that of the
	// cluster which was named. Policy is what it was judged by.
	Cluster keys.ClusterID
	Policy  []byte
	// Name and Role of the node.
	Name string
	Role provider.Role
	// Disk is what the ticket is for, and DiskKey its key.
	Disk    Disk
	DiskKey []byte
	// Certificate is kubelet's, in DER, with its key; nil if none was issued.
	Certificate []byte
	Key         *ecdsa.PrivateKey
	// Parameters of the cluster; none of them is secret.
	Parameters *api.Cluster
	// ControlPlane has the secrets of the control plane; nil for workers.
	ControlPlane *api.ControlPlane

	id      string
	expires time.Time
	*witness
}

// Close overwrites the ticket's secrets and ends the connection that it came by.
func (t *Ticket) Close() {
	clear(t.DiskKey)
	for _, f := range t.ControlPlane.GetFiles() {
		clear(f.Content)
	}
	clear(t.ControlPlane.GetMasterSecret())
	if t.witness != nil {
		t.first.close()
	}
}

// ControlPlanes are the hosts of control planes, that which issued the ticket first.
func (t *Ticket) ControlPlanes() []string {
	out := []string{t.first.host()}
	for _, address := range t.addresses {
		if host, _, err := net.SplitHostPort(address); err == nil && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

// roles are what is asked for. A control plane that is not in the inventory yet must not
// become a worker for that.
var roles = map[provider.Role]api.Role{provider.Worker: api.Role_ROLE_WORKER, provider.ControlPlane: api.Role_ROLE_CONTROL_PLANE}

// ask asks for a ticket with a certificate, and for one without if the machine's name,
// which only its surroundings say so far, is not what the node is called.
func (s *service) ask(ctx context.Context, t *target, d Disk) (*Ticket, error) {
	key, request, err := certificateRequest(t.name)
	if err != nil {
		return nil, err
	}
	out := &Ticket{Policy: t.policy, Disk: d, Key: key}
	var secrets *api.Ticket
	var role api.Role
	err = s.call(ctx, func(ctx context.Context) error {
		if d.Fresh {
			r, err := s.client.IssueJoinTicket(ctx, &api.IssueJoinTicketRequest{DiskUuid: d.UUID, NodeName: t.name, Role: roles[t.role], CertificateRequest: request})
			secrets, role, out.Name = r.GetTicket(), r.GetRole(), r.GetNodeName()
			out.Parameters, out.Certificate, out.ControlPlane = r.GetCluster(), r.GetCertificate(), r.GetControlPlane()
			return err
		}
		r, err := s.client.IssueRejoinTicket(ctx, &api.IssueRejoinTicketRequest{DiskUuid: d.UUID, CertificateRequest: request})
		if reasonOf(err) == "certificate" {
			r, err = s.client.IssueRejoinTicket(ctx, &api.IssueRejoinTicketRequest{DiskUuid: d.UUID})
		}
		secrets, role, out.Name = r.GetTicket(), r.GetRole(), r.GetNodeName()
		out.Parameters, out.Certificate, out.ControlPlane = r.GetCluster(), r.GetCertificate(), r.GetControlPlane()
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(secrets.GetMeasurementSecret())
	out.id, out.DiskKey, out.expires = secrets.GetId(), secrets.GetStateDiskKey(), time.Now().Add(time.Duration(secrets.GetLifetime())*time.Second)
	if err := out.check(t, secrets, role); err != nil {
		out.Close()
		return nil, fmt.Errorf("%s: its ticket cannot be used: %w", s.host(), err)
	}
	return out, nil
}

// check wants a ticket that is whole and of the cluster that was named.
func (t *Ticket) check(of *target, secrets *api.Ticket, role api.Role) (err error) {
	if t.Cluster, err = identity(secrets); err != nil {
		return err
	}
	if t.Cluster != of.id {
		return fmt.Errorf("its secrets are those of cluster %.8s, not of %.8s", t.Cluster, of.id)
	}
	switch role {
	case api.Role_ROLE_WORKER:
		t.Role = provider.Worker
	case api.Role_ROLE_CONTROL_PLANE:
		t.Role = provider.ControlPlane
	default:
		return fmt.Errorf("role %v is unknown", role)
	}
	if err := provider.CheckName(t.Name); err != nil {
		return err
	}
	if err := bindings.CheckDisk(t.Disk.UUID); err != nil {
		return err
	}
	if (t.Role == provider.ControlPlane) != (t.ControlPlane != nil) {
		return fmt.Errorf("a %s gets the control plane's files, or lacks them", t.Role)
	}
	for _, f := range t.ControlPlane.GetFiles() {
		if !filepath.IsLocal(f.Path) || filepath.Clean(f.Path) != f.Path {
			return fmt.Errorf("a file of the control plane is called %.80q", f.Path)
		}
	}
	return t.checkCertificate()
}

// identity is the cluster's that follows from a ticket's secrets.
func identity(secrets *api.Ticket) (id keys.ClusterID, err error) {
	secret, err := keys.Get[keys.Measurement](context.Background(), measurementSecret(secrets.GetMeasurementSecret()), keys.MeasurementID, keys.MeasurementSize, 0)
	if err != nil {
		return id, fmt.Errorf("its measurement secret: %w", err)
	}
	defer secret.Wipe()
	if len(secrets.GetSalt()) != keys.SaltSize {
		return id, fmt.Errorf("its salt has %d bytes, not %d", len(secrets.GetSalt()), keys.SaltSize)
	}
	return keys.NewClusterID(secret, secrets.GetSalt())
}

// measurementSecret is a [keys.Source] of itself.
type measurementSecret []byte

// DataKey implements [keys.Source].
func (m measurementSecret) DataKey(_ context.Context, purpose keys.Purpose, id string, _ int, _ keys.Version) (*keys.DataKey, error) {
	return &keys.DataKey{Purpose: purpose, ID: id, Version: 1, Secret: keys.NewSecret(append([]byte(nil), m...))}, nil
}
