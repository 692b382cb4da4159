// SPDX-License-Identifier: Apache-2.0

// Package join asks a cluster to let this machine in, or to have the key of its disk
// again: the machine's half of docs/join.md.
//
// The machine's surroundings (package provider) name the cluster and where its control
// planes are. All of these are asked, in an order of their own, until one issues a
// ticket; then a [Machine] becomes a node with it. That goes on until it is one.
//
// # Trust
//
// The surroundings are not trusted, and whoever answers at an address is not either. The
// channel is attested on both sides: a service is sent nothing before it has proved, by
// its machine's TPM, that it booted what the policy of the named cluster accepts, and by
// PCR 15 that it belongs to that cluster. A ticket whose secrets make another cluster's
// identity is dropped.
//
// So whoever names the cluster decides which one a machine joins that is nobody's. It has
// no secret to lose.
//
// # Not guaranteed
//
// That a cluster which was named is the one that somebody means. Its owner sees who
// joined: a machine is let in by the cluster's policy, not by its own.
package join
