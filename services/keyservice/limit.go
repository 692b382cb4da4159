// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what callers can make the service do.
type Limits struct {
	// CallerRate is how many requests a service account may make in a second, and
	// CallerBurst how many at once.
	CallerRate  float64 `json:"caller_rate"`
	CallerBurst int     `json:"caller_burst"`
	// ReviewRate is how many tokens that are not known yet may come from one address
	// in a second, and ReviewBurst how many at once.
	ReviewRate  float64 `json:"review_rate"`
	ReviewBurst int     `json:"review_burst"`
	// Connections is how many there may be at once; one address has an eighth of them.
	Connections int `json:"connections"`
}

// DefaultLimits fit a cluster of some hundred nodes that all restart at once.
func DefaultLimits() Limits {
	return Limits{CallerRate: 200, CallerBurst: 400, ReviewRate: 20, ReviewBurst: 40, Connections: 1024}
}

// maxLimiters bounds how many callers or addresses are told apart.
const maxLimiters = 4096

// limiter keeps a rate for each of many.
type limiter struct {
	rate  rate.Limit
	burst int

	mu   sync.Mutex
	each map[string]*limited
}

type limited struct {
	*rate.Limiter
	last time.Time
}

func newLimiter(r float64, burst int) *limiter {
	return &limiter{rate: rate.Limit(r), burst: burst, each: map[string]*limited{}}
}

func (l *limiter) allow(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	one, ok := l.each[who]
	if !ok {
		if len(l.each) >= maxLimiters {
			l.forget(now)
		}
		one = &limited{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.each[who] = one
	}
	one.last = now
	return one.AllowN(now, 1)
}

// forget drops those that would be allowed everything anyway, or the one that
// was not seen for the longest time.
func (l *limiter) forget(now time.Time) {
	var oldest string
	var last time.Time
	for who, one := range l.each {
		if one.TokensAt(now) >= float64(l.burst) {
			delete(l.each, who)
		} else if oldest == "" || one.last.Before(last) {
			oldest, last = who, one.last
		}
	}
	if len(l.each) >= maxLimiters {
		delete(l.each, oldest)
	}
}
