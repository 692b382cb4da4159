// SPDX-License-Identifier: Apache-2.0

// Package diskmapper serves the node's state disk to the node's other services: what it is, and, for whoever has the
// key, formatting, opening and re-keying it. The API is services/api/diskmapper, on a unix socket that only root can
// connect to; package client speaks it.
//
// The service finds the disk by its serial number, which whoever makes the machine gives to it. It keeps no key: keys
// come with a call, are used and cleared. It does not know the cluster: the caller has the cluster judge the disk's
// generation while the call runs.
//
// Trust boundary: callers are root on this node. The disk is the host's; package disk says what that means. Not
// guaranteed: that no copy of a key is left in memory that gRPC has used; the node's memory is trusted.
package diskmapper
