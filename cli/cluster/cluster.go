// SPDX-License-Identifier: Apache-2.0

// Package cluster makes a cluster out of machines that have booted, and talks to its
// nodes: the commands "constellation init", "status" and "kubeconfig".
//
// # Trust
//
// A node is verified before anything is sent to it: the attested channel (package
// attestation/atls) carries no byte of a call before the node has proven, by evidence
// that fulfils the policy, what it booted and by which TPM. Everything that is sent to
// one node goes over connections whose other end proved to be the same device.
//
// What a node returns is as good as what it was found to have booted; it is bounded in
// size, and text of it is shown without control characters.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// RefusalError says that a machine was not believed, and that nothing was sent to it.
type RefusalError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *RefusalError) Error() string {
	return fmt.Sprintf("the node at %s is refused, and nothing was sent to it: %v\nwhat to do: %s", e.Address, e.Err, advice(e.Reason()))
}

// Unwrap returns the verifier's or the channel's error.
func (e *RefusalError) Unwrap() error { return e.Err }

// Reason is why: of whoever refused first.
func (e *RefusalError) Reason() attestation.Reason {
	var refused *atls.Error
	if errors.As(e.Err, &refused) {
		return refused.Reason
	}
	return attestation.ReasonOf(e.Err)
}

// advice says what to do about a refusal.
func advice(r attestation.Reason) string {
	switch r {
	case attestation.ReasonMeasurements:
		return "boot an image whose measurements the configuration names, or add the measurements of this one (constellation measurements fetch)"
	case attestation.ReasonExpired:
		return "boot an image that is still accepted, or prolong attestation.acceptedUntil in the configuration"
	case attestation.ReasonIdentity:
		return "if this machine's TPM is to be trusted, name its authority in the configuration, or list it in the inventory"
	case attestation.ReasonMode, attestation.ReasonTechnology, attestation.ReasonVersion, attestation.ReasonMalformed, attestation.ReasonChannel:
		return "check that the address is a Constellation node's, of the same version as this program, and that nothing on the way answers in its place"
	case attestation.ReasonClock:
		return "switch the machine off and on again, instead of waking it from sleep"
	}
	return "try again; if it is refused again, the machine or somebody on the way is not what it should be: do not trust it"
}

// Node is a node that was verified. Its methods talk to that very device.
type Node struct {
	Address string
	// Claims are what it proved.
	Claims *attestation.Claims
	// Status is what it said then.
	Status *api.StatusResponse

	conn   *grpc.ClientConn
	client api.BootstrapperClient
	gate   *gate
}

// Close ends the connection.
func (n *Node) Close() error { return n.conn.Close() }

// Ask asks the node how it is now.
func (n *Node) Ask(ctx context.Context) (*api.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return n.client.Status(ctx, &api.StatusRequest{})
}

// Dial connects to an address. It is net.Dialer's or one like it.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Limits of a connection.
const (
	maxAnswer     = 16 << 20 // bytes of a message from a node
	retryInterval = time.Second
	callTimeout   = 30 * time.Second
	// pingAfter is how long a connection may be silent before the node is asked whether
	// it is there. Nodes refuse to be asked much more often.
	pingAfter   = 20 * time.Second
	pingTimeout = 20 * time.Second
)

// Connect waits until something answers at the address, and verifies it. waiting, if not
// nil, is told why it is not there yet. A machine that is refused is a *RefusalError.
func Connect(ctx context.Context, address string, v attestation.Verifier, dial Dial, waiting func(error)) (*Node, error) {
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	g := &gate{Verifier: v}
	channel, err := atls.ClientVerify([]attestation.Verifier{g}, atls.Options{Observe: g.observe})
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(channel),
		grpc.WithContextDialer(dial), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	n := &Node{Address: address, conn: conn, client: api.NewBootstrapperClient(conn), gate: g}
	for {
		err := n.greet(ctx)
		switch {
		case err == nil:
			return n, nil
		case ctx.Err() != nil:
			conn.Close()
			return nil, fmt.Errorf("nothing answers at %s: %w", address, errors.Join(context.Cause(ctx), err))
		case g.refusal() != nil:
			conn.Close()
			return nil, &RefusalError{Address: address, Err: g.refusal()}
		}
		if waiting != nil {
			waiting(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
			conn.ResetConnectBackoff()
		}
	}
}

// greet asks for the status: the first call, which says nothing about us.
func (n *Node) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var p peer.Peer
	s, err := n.client.Status(ctx, &api.StatusRequest{}, grpc.Peer(&p))
	if err != nil {
		return err
	}
	info, ok := p.AuthInfo.(atls.Info)
	if !ok {
		return errors.New("the connection is not attested")
	}
	n.Status = s
	n.Claims, err = info.Claims()
	return err
}

// gate is a Verifier that lets in one device: the first that was accepted. It remembers
// the last refusal, which gRPC keeps to itself.
type gate struct {
	attestation.Verifier

	mu      sync.Mutex
	device  []attestation.Identity
	refused error
}

// Verify implements attestation.Verifier.
func (g *gate) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	claims, err := g.Verifier.Verify(ctx, e, b, ask)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.device == nil {
		g.device = claims.Identities
	}
	if !slices.EqualFunc(g.device, claims.Identities, func(a, b attestation.Identity) bool {
		return a.Kind == b.Kind && bytes.Equal(a.Value, b.Value)
	}) {
		return nil, attestation.Refuse(attestation.ReasonIdentity, "another machine than the one that was verified first answers at this address")
	}
	return claims, nil
}

func (g *gate) observe(o atls.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var e *atls.Error
	if o.Err == nil || errors.As(o.Err, &e) && e.Temporary() {
		return
	}
	g.refused = o.Err
}

func (g *gate) refusal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}
