// SPDX-License-Identifier: Apache-2.0

package managed

import (
	"sync"
	"time"

	"github.com/constellation-os/constellation/keys"
)

// cache keeps seeds for a bounded time, so that keys remain available while the
// KMS restarts. A nil cache keeps nothing.
type cache struct {
	life time.Duration
	size int

	mu    sync.Mutex
	seeds map[slot]cached
	sweep *time.Timer
}

type cached struct {
	seed    keys.Secret
	expires time.Time
}

func newCache(life time.Duration, size int) *cache {
	if life <= 0 || size <= 0 {
		return nil
	}
	return &cache{life: life, size: size, seeds: map[slot]cached{}}
}

// get returns a copy, which is the caller's to wipe.
func (c *cache) get(s slot) (keys.Secret, bool) {
	if c == nil {
		return keys.Secret{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, ok := c.seeds[s]
	if !ok || !time.Now().Before(entry.expires) {
		return keys.Secret{}, false
	}
	return keys.NewSecret(entry.seed.Copy()), true
}

// put keeps a copy. A full cache gives up the entry that expires first.
func (c *cache) put(s slot, seed keys.Secret) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.seeds[s]; ok {
		old.seed.Wipe()
	} else if len(c.seeds) >= c.size {
		c.dropOldest()
	}
	c.seeds[s] = cached{keys.NewSecret(seed.Copy()), time.Now().Add(c.life)}
	if c.sweep == nil {
		c.sweep = time.AfterFunc(c.life, c.expire)
	}
}

func (c *cache) dropOldest() {
	var oldest slot
	var first time.Time
	for s, entry := range c.seeds {
		if first.IsZero() || entry.expires.Before(first) {
			oldest, first = s, entry.expires
		}
	}
	c.seeds[oldest].seed.Wipe()
	delete(c.seeds, oldest)
}

// expire wipes what has expired, without anybody asking for it.
func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var next time.Time
	for s, entry := range c.seeds {
		if !now.Before(entry.expires) {
			entry.seed.Wipe()
			delete(c.seeds, s)
		} else if next.IsZero() || entry.expires.Before(next) {
			next = entry.expires
		}
	}
	c.sweep = nil
	if !next.IsZero() {
		c.sweep = time.AfterFunc(next.Sub(now), c.expire)
	}
}

func (c *cache) wipe() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, entry := range c.seeds {
		entry.seed.Wipe()
		delete(c.seeds, s)
	}
	if c.sweep != nil {
		c.sweep.Stop()
		c.sweep = nil
	}
}
