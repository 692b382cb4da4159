// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/audit"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
	"github.com/constellation-os/constellation/services/limit"
)

// How long a ticket is good, a request may take, and KeyService may take of that. A
// ticket has to outlive the formatting of a disk.
const (
	ticketLife  = 10 * time.Minute
	requestTime = 20 * time.Second
	keysTime    = 5 * time.Second
)

// Options of a [Server]; all are needed but Now.
type Options struct {
	Policy    *Policy
	Keys      keys.Source
	Bindings  *bindings.Bindings
	Authority *Authority
	Secrets   Secrets
	// Cluster returns what is known of it, nil if nothing yet.
	Cluster func() *parameters.Cluster
	Limits  Limits
	Metrics *Metrics
	Events  Recorder
	// Audit gets one record for each verdict.
	Audit *slog.Logger
	// Now is the system's time if nil.
	Now func() time.Time
}

// Server implements the gRPC service. It must be served on a mutually attested channel
// whose verifier is the Policy.
type Server struct {
	api.UnimplementedJoinServiceServer
	Options
	devices, addresses *limit.Rates
	log                *audit.Log
	turns              chan struct{}
	measurement        measurement
}

// NewServer makes one.
func NewServer(o Options) (*Server, error) {
	if o.Policy == nil || o.Keys == nil || o.Bindings == nil || o.Authority == nil || o.Cluster == nil || o.Metrics == nil || o.Events == nil || o.Audit == nil {
		return nil, errors.New("joinservice: an option is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Server{
		Options:   o,
		devices:   limit.NewRates(o.Limits.DeviceRate, o.Limits.DeviceBurst),
		addresses: limit.NewRates(o.Limits.AddressRate, o.Limits.AddressBurst),
		log:       audit.New(o.Audit),
		turns:     make(chan struct{}, o.Limits.Requests),
	}, nil
}

// IssueJoinTicket implements the service.
func (s *Server) IssueJoinTicket(ctx context.Context, req *api.IssueJoinTicketRequest) (*api.IssueJoinTicketResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	c := s.begin(ctx, kindJoin, req.GetNodeName(), req.GetDiskUuid())
	out, err := s.join(ctx, c, req)
	if err := s.end(ctx, c, err); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) join(ctx context.Context, c *call, req *api.IssueJoinTicketRequest) (*api.IssueJoinTicketResponse, error) {
	leave, err := s.enter(ctx, c, req.GetDiskUuid())
	if err != nil {
		return nil, err
	}
	defer leave()
	d, err := s.Policy.still(c.claims)
	if err != nil {
		return nil, err
	}
	grant, err := admit(d, c.id, req.GetNodeName(), req.GetRole())
	if err != nil {
		return nil, err
	}
	c.name, c.role = grant.Name, grant.Role
	p, err := s.prepare(ctx, c, req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	node, err := s.bind(ctx, c, p)
	if err != nil {
		p.wipe()
		return nil, err
	}
	return &api.IssueJoinTicketResponse{
		Ticket: p.ticket(node), NodeName: node.Name, Role: roles[node.Role],
		Cluster: p.cluster, Certificate: p.certificate, ControlPlane: p.control,
	}, nil
}

// bind makes the machine a node. Everything that the node is given is there by then, so
// that a failure of the others leaves nothing behind.
func (s *Server) bind(ctx context.Context, c *call, p *prepared) (*bindings.Node, error) {
	version, err := s.Bindings.KeyVersion(ctx, c.device, c.disk)
	if err != nil {
		return nil, bindingsError(err)
	}
	if err := s.diskKey(ctx, p, c.disk, version); err != nil {
		return nil, err
	}
	node, err := s.Bindings.Bind(ctx, bindings.Node{
		Device: c.device, Name: c.name, Role: c.role, Disk: c.disk,
		Address: c.address, KeyVersion: p.key.Version, Ticket: bindings.NewTicket(s.Now(), ticketLife),
	})
	if err != nil {
		return nil, bindingsError(err)
	}
	if node.KeyVersion != p.key.Version { // the same machine asked twice at once, in the middle of a rotation
		p.key.Wipe()
		return node, s.diskKey(ctx, p, c.disk, node.KeyVersion)
	}
	return node, nil
}

// IssueRejoinTicket implements the service.
func (s *Server) IssueRejoinTicket(ctx context.Context, req *api.IssueRejoinTicketRequest) (*api.IssueRejoinTicketResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	c := s.begin(ctx, kindRejoin, "", req.GetDiskUuid())
	out, err := s.rejoin(ctx, c, req)
	if err := s.end(ctx, c, err); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) rejoin(ctx context.Context, c *call, req *api.IssueRejoinTicketRequest) (*api.IssueRejoinTicketResponse, error) {
	leave, err := s.enter(ctx, c, req.GetDiskUuid())
	if err != nil {
		return nil, err
	}
	defer leave()
	node, err := s.member(ctx, c)
	if err != nil {
		return nil, err
	}
	if node.Disk != c.disk {
		return nil, refuse(Reason(bindings.ReasonDisk), "node %s has disk %s, not %s", node.Name, node.Disk, c.disk)
	}
	p, err := s.prepare(ctx, c, req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	if err := s.diskKey(ctx, p, c.disk, node.KeyVersion); err != nil {
		p.wipe()
		return nil, err
	}
	node, err = s.Bindings.Renew(ctx, c.device, c.disk, c.address, bindings.NewTicket(s.Now(), ticketLife))
	if err != nil {
		p.wipe()
		return nil, bindingsError(err)
	}
	c.granted = []slog.Attr{slog.Uint64("known", node.Known.Number)}
	return &api.IssueRejoinTicketResponse{
		Ticket: p.ticket(node), NodeName: node.Name, Role: roles[node.Role], Known: generation(node.Known),
		Cluster: p.cluster, Certificate: p.certificate, ControlPlane: p.control,
	}, nil
}

// AdvanceGeneration implements the service.
func (s *Server) AdvanceGeneration(ctx context.Context, req *api.AdvanceGenerationRequest) (*api.AdvanceGenerationResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	c := s.begin(ctx, kindGeneration, "", req.GetDiskUuid())
	if err := s.end(ctx, c, s.advance(ctx, c, req)); err != nil {
		return nil, err
	}
	return &api.AdvanceGenerationResponse{}, nil
}

func (s *Server) advance(ctx context.Context, c *call, req *api.AdvanceGenerationRequest) error {
	leave, err := s.enter(ctx, c, req.GetDiskUuid())
	if err != nil {
		return err
	}
	defer leave()
	from, to := parseGeneration(req.GetFrom()), parseGeneration(req.GetTo())
	if err := checkStep(from, to); err != nil {
		return err
	}
	c.granted = []slog.Attr{slog.Uint64("from", from.Number), slog.Uint64("to", to.Number)}
	if _, err := s.member(ctx, c); err != nil {
		return err
	}
	_, err = s.Bindings.Advance(ctx, c.device, req.GetTicketId(), c.disk, from, to)
	return bindingsError(err)
}

// enter finds out who asks and waits for a turn.
func (s *Server) enter(ctx context.Context, c *call, uuid string) (leave func(), err error) {
	if err := s.caller(ctx, c); err != nil {
		return nil, err
	}
	if err := bindings.CheckDisk(uuid); err != nil {
		return nil, &Error{ReasonRequest, err}
	}
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, refuse(ReasonRate, "%d requests were under way already", s.Limits.Requests)
	}
}

// member wants a node that may still be what it joined as.
func (s *Server) member(ctx context.Context, c *call) (*bindings.Node, error) {
	d, err := s.Policy.still(c.claims)
	if err != nil {
		return nil, err
	}
	node, err := s.Bindings.Node(ctx, c.device)
	if err != nil {
		return nil, bindingsError(err)
	}
	c.name, c.role = node.Name, node.Role
	_, err = admit(d, c.id, node.Name, roles[node.Role])
	return node, err
}

func parseGeneration(g *api.Generation) disk.Generation {
	return disk.Generation{Number: g.GetNumber(), ID: g.GetId()}
}

func generation(g disk.Generation) *api.Generation {
	return &api.Generation{Number: g.Number, Id: g.ID}
}

// checkStep wants a step that a disk can take.
func checkStep(from, to disk.Generation) error {
	if from != (disk.Generation{}) {
		if err := bindings.CheckGeneration(from); err != nil {
			return &Error{ReasonRequest, err}
		}
	}
	if err := bindings.CheckGeneration(to); err != nil {
		return &Error{ReasonRequest, err}
	}
	if to.Number != from.Number+1 || to.ID == from.ID {
		return refuse(ReasonRequest, "no step leads from generation %d to %d", from.Number, to.Number)
	}
	return nil
}

// Close wipes the secrets that are kept.
func (s *Server) Close() { s.measurement.wipe() }
