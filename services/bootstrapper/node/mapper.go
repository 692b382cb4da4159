// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/diskmapper/client"
)

// Mapper is the diskmapper at the other end of a connection.
type Mapper struct {
	Conn grpc.ClientConnInterface
}

// Current implements steps.Mapper.
func (m *Mapper) Current(ctx context.Context) (string, error) {
	status, err := diskmapper.NewDiskMapperClient(m.Conn).Status(ctx, &diskmapper.StatusRequest{}, grpc.WaitForReady(true))
	return status.GetOpen().GetUuid(), err
}

// Inspect implements steps.Mapper.
func (m *Mapper) Inspect(ctx context.Context) (*diskmapper.InspectResponse, error) {
	return diskmapper.NewDiskMapperClient(m.Conn).Inspect(ctx, &diskmapper.InspectRequest{}, grpc.WaitForReady(true))
}

// Open implements steps.Mapper.
func (m *Mapper) Open(ctx context.Context, key []byte, uuid string, w disk.Witness) error {
	var format *diskmapper.Format
	if uuid != "" {
		format = &diskmapper.Format{Uuid: uuid}
	}
	_, err := client.Open(ctx, m.Conn, key, format, w)
	return err
}

// Problem implements steps.Mapper.
func (*Mapper) Problem(err error) *diskmapper.Problem { return client.ProblemOf(err) }
