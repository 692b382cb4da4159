// SPDX-License-Identifier: Apache-2.0

package machine

import "sync"

// A ring keeps the last bytes written to it. It is safe for concurrent use.
type ring struct {
	mu    sync.Mutex
	limit int
	data  []byte
	total int64
}

func newRing(limit int) *ring { return &ring{limit: limit} }

// Write never fails.
func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total += int64(len(p))
	r.data = append(r.data, p...)
	// Twice the limit before moving keeps the cost of a byte constant.
	if len(r.data) > 2*r.limit {
		r.data = append([]byte(nil), r.data[len(r.data)-r.limit:]...)
	}
	return len(p), nil
}

// Tail returns a copy of the last bytes, at most the limit.
func (r *ring) Tail() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.data[max(0, len(r.data)-r.limit):]...)
}

// Total is the number of bytes ever written.
func (r *ring) Total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
