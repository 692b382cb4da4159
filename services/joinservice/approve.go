// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// addressTime is how long it may take to find out where a node was seen.
const addressTime = 5 * time.Second

// addresses are for package servingcert: kubelet may serve as the node that was admitted,
// at the address at which it asked for its last ticket. Others are not ours to decide on.
func addresses(ctx context.Context, b *bindings.Bindings) func(name string) ([]netip.Addr, bool) {
	return func(name string) ([]netip.Addr, bool) {
		ctx, cancel := context.WithTimeout(ctx, addressTime)
		defer cancel()
		n, err := b.Named(ctx, name)
		if err != nil {
			slog.InfoContext(ctx, "a kubelet's certificate is left to others", "node", clip(name), "error", err)
			return nil, false
		}
		address, err := netip.ParseAddr(n.Address)
		if err != nil {
			return nil, false
		}
		return []netip.Addr{address.Unmap()}, true
	}
}
