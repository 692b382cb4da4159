// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/peer"
)

// Owner returns the SHA-256 of the init secret, which the machine's surroundings know,
// or nil if they were told of none.
type Owner func(ctx context.Context) (*[sha256.Size]byte, error)

// Bounds of guessing. A secret of 32 random bytes is not guessed; the bounds keep
// strangers from having the node ask its surroundings without end. They are for one
// address, so that a stranger cannot lock the owner out.
const (
	guessEvery  = 10 * time.Second
	guessBurst  = 8
	maxGuessers = 1024
	askTime     = 15 * time.Second
)

// guard admits the owner.
type guard struct {
	owner Owner
	now   func() time.Time

	mu       sync.Mutex
	guessers map[netip.Addr]*rate.Limiter
}

func newGuard(owner Owner) *guard {
	return &guard{owner: owner, now: time.Now, guessers: map[netip.Addr]*rate.Limiter{}}
}

// owner returns nil if the caller has proved to be the machine's owner.
func (s *Server) owner(ctx context.Context, secret []byte) error {
	if len(secret) != initSecretSize {
		return requestError("init_secret: %d bytes, not %d", len(secret), initSecretSize)
	}
	return s.guard.admit(ctx, secret)
}

// admit returns nil if the secret is the owner's, and a problem if not.
func (g *guard) admit(ctx context.Context, secret []byte) error {
	limiter := g.limiter(remote(ctx))
	if limiter.TokensAt(g.now()) < 1 {
		return ownerError(fmt.Sprintf("Wait %v, then send the right one.", guessEvery), "too many wrong init secrets came from this address")
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	want, err := g.owner(ctx)
	if err != nil {
		limiter.AllowN(g.now(), 1)
		return ownerError("Make the machine's metadata reachable, then send the Init again.", "the machine cannot learn who its owner is: %v", err)
	}
	if want == nil {
		limiter.AllowN(g.now(), 1)
		return ownerError("Give the machine the SHA-256 of an init secret where it finds its metadata (docs/providers.md), then send the Init again.",
			"the machine was told of no init secret, so nobody can prove to be its owner")
	}
	sum := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
		limiter.AllowN(g.now(), 1)
		return ownerError("Use the init secret that was made with this machine.", "the init secret is not the owner's")
	}
	return nil
}

func (g *guard) limiter(from netip.Addr) *rate.Limiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l, ok := g.guessers[from]; ok {
		return l
	}
	if len(g.guessers) >= maxGuessers {
		g.forget()
	}
	l := rate.NewLimiter(rate.Every(guessEvery), guessBurst)
	g.guessers[from] = l
	return l
}

// forget drops those who have not guessed lately, or if all have, anyone.
func (g *guard) forget() {
	now := g.now()
	for from, l := range g.guessers {
		if l.TokensAt(now) >= guessBurst {
			delete(g.guessers, from)
		}
	}
	for from := range g.guessers {
		if len(g.guessers) < maxGuessers {
			return
		}
		delete(g.guessers, from)
	}
}

// remote is the caller's address; one that is unknown shares a limit with its like.
func remote(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	a, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}
