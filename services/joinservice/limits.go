// SPDX-License-Identifier: Apache-2.0

package joinservice

// Limits bound what callers can make the service do.
type Limits struct {
	// DeviceRate is how many requests one device may make in a second, and DeviceBurst how
	// many at once.
	DeviceRate  float64 `json:"device_rate"`
	DeviceBurst int     `json:"device_burst"`
	// AddressRate and AddressBurst are those of one address, where several devices may be.
	AddressRate  float64 `json:"address_rate"`
	AddressBurst int     `json:"address_burst"`
	// QuoteRate is how often in a second all callers together make the TPM work, and
	// QuoteBurst how often at once. A handshake needs two turns. Only machines that have
	// proven themselves get any.
	QuoteRate  float64 `json:"quote_rate"`
	QuoteBurst int     `json:"quote_burst"`
	// Connections is how many there may be at once; one address has an eighth of them.
	Connections int `json:"connections"`
	// Requests is how many are worked on at once; the others wait for their turn.
	Requests int `json:"requests"`
}

// DefaultLimits fit a cluster of some hundred nodes that all restart at once.
func DefaultLimits() Limits {
	return Limits{
		DeviceRate: 1, DeviceBurst: 20, AddressRate: 20, AddressBurst: 100,
		QuoteRate: 10, QuoteBurst: 20, Connections: 1024, Requests: 64,
	}
}
