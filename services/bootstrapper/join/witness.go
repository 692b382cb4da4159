// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// witness is the cluster that a ticket is of: it remembers the disk's generation, and
// says whether the disk may go on.
type witness struct {
	ticket    string
	first     *service
	connect   func(address string) (*service, error)
	addresses []string
}

// How often the control planes are asked until one knows, and the pause in between.
const (
	rounds     = 5
	roundPause = 5 * time.Second
)

const rolledBack = "rolled-back"

// Advance implements [disk.Witness]: by the service that issued the ticket, and if that
// is gone, by any other, for what they know is the cluster's.
func (w *witness) Advance(ctx context.Context, uuid string, from, to disk.Generation) error {
	request := &api.AdvanceGenerationRequest{TicketId: w.ticket, DiskUuid: uuid, From: generation(from), To: generation(to)}
	err := w.first.advance(ctx, request)
	for round := 0; round < rounds && again(err); round++ {
		for _, address := range w.addresses {
			s, connectErr := w.connect(address)
			if connectErr != nil {
				return connectErr
			}
			err = s.advance(ctx, request)
			s.close()
			if !again(err) {
				break
			}
		}
		if again(err) {
			select {
			case <-ctx.Done():
				return errors.Join(err, ctx.Err())
			case <-time.After(roundPause):
			}
		}
	}
	if known := (*knownError)(nil); errors.As(err, &known) {
		return fmt.Errorf("%w: %w", known.refusal, &disk.RollbackError{UUID: uuid, Disk: from, Known: known.generation})
	}
	return err
}

func (s *service) advance(ctx context.Context, r *api.AdvanceGenerationRequest) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.AdvanceGeneration(ctx, r)
		return err
	})
}

// again says whether somebody else may know better.
func again(err error) bool {
	var r *Refusal
	return err != nil && (!errors.As(err, &r) || r.temporary())
}

func generation(g disk.Generation) *api.Generation {
	return &api.Generation{Number: g.Number, Id: g.ID}
}

// knownError is a refusal of an older copy, with what the cluster knows.
type knownError struct {
	refusal    *Refusal
	generation disk.Generation
}

// Error implements error.
func (k *knownError) Error() string { return k.refusal.Error() }

// Unwrap returns the refusal.
func (k *knownError) Unwrap() error { return k.refusal }

// reasonOf is a refusal's reason, or nothing.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*api.Refusal); ok {
			return r.Reason
		}
	}
	return ""
}
