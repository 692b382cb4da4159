// SPDX-License-Identifier: Apache-2.0

package keyservice

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

// DefaultLimits fit a cluster of some thousand nodes that all restart at once. A join is
// one request of JoinService's account, of which an instance makes some hundred in a
// second for each processor; the service answers ten thousand (docs/benchmarks.md).
func DefaultLimits() Limits {
	return Limits{CallerRate: 1000, CallerBurst: 2000, ReviewRate: 20, ReviewBurst: 40, Connections: 1024}
}
