// SPDX-License-Identifier: Apache-2.0

// Package bindings remembers which machine is which node: the device that proved
// itself, the node's name and role, its state disk, and the generation of that disk.
//
// It is kept in objects of the Kubernetes API, in a namespace of their own, so that any
// number of JoinServices see the same:
//
//	node-HASH   the node of a device; HASH is of the device's identity
//	name-NAME   which device has a name
//	disk-UUID   which device has a disk
//
// An object is created only if there is none, and changed only as it was read, so of two
// who want one name or one disk exactly one gets it. A device claims its name and its
// disk first; the node object comes last, and is what makes it a node. A claim by a
// device that is no such node, because a request ended half-way, lapses after
// [ClaimLife] and can then be taken over.
//
// # Trust
//
// The API server is trusted: whoever may write these objects decides who is who. Devices
// come from verified claims; names and disks come from requests, and must be checked
// (attestation/policy, [CheckDisk]) before.
//
// # Not guaranteed
//
// That a disk is the newest if etcd itself was restored from an older copy.
package bindings
