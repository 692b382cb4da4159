// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// headStart is how long a target is given before the next one is tried too. A machine
// that is switched off says nothing, and one that is busy answers late.
const headStart = 250 * time.Millisecond

var errNoTarget = errors.New("network: there is no machine to connect to")

// dialAny connects to the first of the targets that takes the connection, in an order
// that chance decides: nothing is remembered of those that did not.
func dialAny(ctx context.Context, dial func(context.Context, netip.AddrPort) (net.Conn, error), targets []netip.AddrPort) (net.Conn, netip.AddrPort, error) {
	type outcome struct {
		conn net.Conn
		to   netip.AddrPort
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome)
	begin := func(to netip.AddrPort) {
		conn, err := dial(ctx, to)
		select {
		case outcomes <- outcome{conn, to, err}:
		case <-ctx.Done(): // another was first
			if err == nil {
				conn.Close()
			}
		}
	}
	order, running := rand.Perm(len(targets)), 0
	next := time.NewTimer(0)
	defer next.Stop()
	err := errNoTarget
	for running > 0 || len(order) > 0 {
		select {
		case <-next.C:
			if len(order) > 0 {
				go begin(targets[order[0]])
				order, running = order[1:], running+1
				next.Reset(headStart)
			}
		case o := <-outcomes:
			if o.err == nil {
				return o.conn, o.to, nil
			}
			running, err = running-1, o.err
			next.Reset(0)
		case <-ctx.Done():
			return nil, netip.AddrPort{}, ctx.Err()
		}
	}
	return nil, netip.AddrPort{}, err
}
