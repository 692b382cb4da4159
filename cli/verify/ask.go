// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/services/verificationservice/client"
)

// atOnce is how many nodes are asked at the same time.
const atOnce = 32

// errNoService is of a node that has nobody to ask.
var errNoService = fmt.Errorf("%w: no VerificationService runs on it", client.ErrUnreachable)

// ask has every node prove itself to v, each within the time limit, over a nonce of its
// own. The results are in the order of the nodes; the error is the context's.
func ask(ctx context.Context, nodes []node, v attestation.Verifier, limit time.Duration) ([]*result, error) {
	results := make([]*result, len(nodes))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, n := range nodes {
		results[i] = &result{Name: n.name, Endpoint: n.endpoint, named: n.named, controlPlane: n.controlPlane}
		group.Go(results[i].asking(ctx, n, v, limit))
	}
	group.Wait()
	return results, ctx.Err()
}

// asking fills in what came of asking the node.
func (r *result) asking(ctx context.Context, n node, v attestation.Verifier, limit time.Duration) func() error {
	return func() error {
		began := time.Now()
		r.Claims, r.err = askOne(ctx, n, v, limit)
		r.Milliseconds = time.Since(began).Milliseconds()
		return nil
	}
}

func askOne(ctx context.Context, n node, v attestation.Verifier, limit time.Duration) (*attestation.Claims, error) {
	if n.client == nil {
		return nil, errNoService
	}
	defer n.client.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	claims, err := n.client.Verify(ctx, v)
	if err == nil && claims == nil {
		err = errors.New("a verifier that says nothing")
	}
	return claims, err
}
