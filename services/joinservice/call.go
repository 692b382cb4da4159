// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/limit"
)

// Kinds of requests, as logs and metrics call them.
const (
	kindJoin       = "join-ticket"
	kindRejoin     = "rejoin-ticket"
	kindGeneration = "generation"
)

// call is a request under way: who asks, and for what.
type call struct {
	kind, address string
	began         time.Time
	// claims and device are empty until they are known.
	claims *attestation.Claims
	id     attestation.Identity
	device string
	// name and disk are the request's word until a verdict is reached.
	name, role, disk string
	// granted is what the audit log says of a grant besides.
	granted []slog.Attr
}

func (s *Server) begin(ctx context.Context, kind, name, disk string) *call {
	return &call{kind: kind, address: address(ctx), began: time.Now(), name: clip(name), disk: clip(disk)}
}

// caller finds out who asks.
func (s *Server) caller(ctx context.Context, c *call) error {
	if !s.addresses.Allow(c.address) {
		return refuse(ReasonRate, "more than %g requests in a second from one address", s.Limits.AddressRate)
	}
	claims, err := atls.ClaimsFromContext(ctx)
	if err != nil {
		return err
	}
	if c.id, err = identityOf(claims); err != nil {
		return err
	}
	c.claims, c.device = claims, bindings.Device(c.id)
	if !s.devices.Allow(c.device) {
		return refuse(ReasonRate, "more than %g requests in a second from one device", s.Limits.DeviceRate)
	}
	return nil
}

// end writes the verdict down, and returns what the caller is told.
func (s *Server) end(ctx context.Context, c *call, err error) error {
	took := time.Since(c.began)
	s.Metrics.request(c.kind, reasonOf(err), took)
	attributes := append(c.attributes(), slog.Duration("took", took))
	if err == nil {
		s.log.Granted(ctx, c.kind, append(attributes, c.granted...)...)
		s.Events.Record(Event{Reason: eventReason(c.kind, true), Note: fmt.Sprintf("node %s (%s), disk %s, device %s at %s", c.name, c.role, c.disk, c.device, c.address)})
		return nil
	}
	reason := reasonOf(err)
	s.log.Refused(ctx, c.kind, c.address, c.claims == nil || reason == ReasonRate, string(reason), err, attributes...)
	s.Events.Record(Event{Warning: true, Reason: eventReason(c.kind, false), Note: fmt.Sprintf("%v: node %s, disk %s, device %s at %s", err, c.name, c.disk, c.device, c.address)})
	return statusOf(err)
}

func (c *call) attributes() []slog.Attr {
	out := []slog.Attr{slog.String("address", c.address), slog.String("name", c.name), slog.String("disk", c.disk)}
	if c.claims == nil {
		return out
	}
	return append(out, slog.String("device", c.device), slog.String("role", c.role),
		slog.String("image", c.claims.Image), slog.String("policy", c.claims.Policy.String()))
}

// maxText bounds what a stranger can write into the log.
const maxText = 128

func clip(s string) string { return clipTo(s, maxText) }

func clipTo(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// address is the caller's, without its port.
func address(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	return limit.Host(p.Addr)
}
