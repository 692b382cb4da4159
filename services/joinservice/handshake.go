// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/services/limit"
)

// Handshake is for [atls.Options.Observe]: a machine that the channel refuses never gets
// to make a request, and its refusal counts as much.
func (s *Server) Handshake(o atls.Outcome) {
	if o.Err == nil {
		s.Metrics.handshakes.WithLabelValues("").Inc()
		return
	}
	var e *atls.Error
	if !errors.As(o.Err, &e) {
		e = &atls.Error{Reason: attestation.ReasonInternal, Err: o.Err}
	}
	reason := e.Reason.String()
	s.Metrics.handshakes.WithLabelValues(reason).Inc()
	address := limit.Host(o.Remote)
	s.log.Refused(context.Background(), kindHandshake, address, true, reason, e)
	s.Events.Record(Event{Warning: true, Reason: eventReason(kindHandshake, false), Note: fmt.Sprintf("%v, from %s", e, address)})
}
