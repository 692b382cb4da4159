// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRates bounds how many callers or addresses are told apart.
const maxRates = 4096

// Rates keeps a rate for each of many.
type Rates struct {
	rate  rate.Limit
	burst int

	mu   sync.Mutex
	each map[string]*limited
}

type limited struct {
	*rate.Limiter
	last time.Time
}

// NewRates allows each so many in a second, and so many at once.
func NewRates(perSecond float64, burst int) *Rates {
	return &Rates{rate: rate.Limit(perSecond), burst: burst, each: map[string]*limited{}}
}

// Allow says whether one more is within the rate.
func (l *Rates) Allow(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	one, ok := l.each[who]
	if !ok {
		if len(l.each) >= maxRates {
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
func (l *Rates) forget(now time.Time) {
	var oldest string
	var last time.Time
	for who, one := range l.each {
		if one.TokensAt(now) >= float64(l.burst) {
			delete(l.each, who)
		} else if oldest == "" || one.last.Before(last) {
			oldest, last = who, one.last
		}
	}
	if len(l.each) >= maxRates {
		delete(l.each, oldest)
	}
}
