// SPDX-License-Identifier: Apache-2.0

// Package verificationservice has a node prove what it booted, to whoever asks, for as
// long as it runs: fresh evidence over the caller's nonce, and the answer to the
// challenge that shows in whose TPM the evidence was signed. Both are there by gRPC
// and by HTTP (docs/verify.md).
//
// # Trust
//
// Callers are strangers: nobody is asked who he is, and nothing that is answered is
// secret. The proof is in the evidence, so the connection needs none, and callers
// trust neither it nor this program: they judge by a policy of their own. What is
// signed is always the binding of a nonce (attestation.NonceBinding), which passes on no
// attested channel: nobody can use this service to be let in in the node's place.
//
// Nothing is kept between calls. A challenge names its nonce again, and the answer is
// good for that nonce alone.
//
// # Limits
//
// A stranger can make the TPM work, one operation at a time, at most Limits.Rate times
// a second; each address at most Limits.AddressRate times, in turn with the others
// (package attestation/gate). While S addresses flood, a caller at another one waits for
// each of its two operations at most (S+1)/Rate seconds and for the one operation that
// is under way, or S+1 operations if the TPM is slower than Rate. With more addresses
// than Rate times 20 it may be turned away.
//
// # Not guaranteed
//
// Evidence says that a machine with this TPM had booted this after the nonce was made.
// It does not say that this machine is who answered, and lets nobody in. Whoever
// shares an address with a flood shares its rate.
package verificationservice

import "time"

// Limits bound what strangers can make the service do. Addresses are told apart as
// package attestation/gate does.
type Limits struct {
	// Rate is how many operations of the TPM there may be in a second, and Burst how
	// many may follow each other at once.
	Rate  float64
	Burst int
	// AddressRate and AddressBurst are the same for one address.
	AddressRate  float64
	AddressBurst int
	// Connections is how many there may be at once by gRPC, and again by HTTP; one address
	// has an eighth of them.
	Connections int
}

// DefaultLimits leave a slow TPM, which needs 0.1 s for a signature, some time for others.
func DefaultLimits() Limits {
	return Limits{Rate: 10, Burst: 20, AddressRate: 2, AddressBurst: 10, Connections: 512}
}

// How long callers wait.
const (
	turnTime      = 20 * time.Second // for a turn, if the TPM is as fast as Limits.Rate
	patience      = 30 * time.Second // for a turn
	operationTime = 15 * time.Second // for the TPM, after that
)

// sources is how many addresses may wait for a turn: as many as have theirs in time.
func (l Limits) sources() int { return max(1, int(l.Rate*turnTime.Seconds())) }
