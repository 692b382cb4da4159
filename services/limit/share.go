// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"net"
	"sync"
)

// sharing is a listener that closes what one address opens beyond its share, so
// that others find room.
type sharing struct {
	net.Listener
	share int // connections of one address

	mu   sync.Mutex
	open map[string]int
}

// Share makes one that lets an address have so many connections at once.
func Share(l net.Listener, share int) net.Listener { return newSharing(l, share) }

func newSharing(l net.Listener, share int) *sharing {
	return &sharing{Listener: l, share: max(1, share), open: map[string]int{}}
}

// Accept implements net.Listener.
func (s *sharing) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := Host(conn.RemoteAddr())
		if s.take(who) {
			return &shared{conn, sync.OnceFunc(func() { s.give(who) })}, nil
		}
		conn.Close()
	}
}

func (s *sharing) take(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[who] >= s.share {
		return false
	}
	s.open[who]++
	return true
}

func (s *sharing) give(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[who]--; s.open[who] == 0 {
		delete(s.open, who)
	}
}

type shared struct {
	net.Conn
	give func()
}

// Close implements net.Conn.
func (c *shared) Close() error {
	defer c.give()
	return c.Conn.Close()
}

// Host is an address without its port.
func Host(a net.Addr) string {
	if h, _, err := net.SplitHostPort(a.String()); err == nil {
		return h
	}
	return a.String()
}
