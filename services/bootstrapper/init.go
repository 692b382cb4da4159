// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"google.golang.org/grpc"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Init implements api.BootstrapperServer.
func (s *Server) Init(r *api.InitRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	defer clear(r.GetMasterSecret())
	defer clear(r.InitSecret)
	ctx := stream.Context()
	if err := s.owner(ctx, r.InitSecret); err != nil {
		return err
	}
	request, err := newRequest(r, s.options.Check)
	if err != nil {
		return requestError("%v", err)
	}
	j, err := s.begin(&Task{
		Name: taskInit, Cluster: request.Cluster, Fingerprint: request.Fingerprint(), Node: request.NodeName, Wipe: request.Keyring.Wipe,
		Plan: func() (*steps.Plan, error) {
			list, err := s.options.Steps(request)
			return &steps.Plan{Steps: list}, err
		},
	})
	if err != nil {
		return err
	}
	return j.watch(ctx, stream.Send)
}
