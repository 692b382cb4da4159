// SPDX-License-Identifier: Apache-2.0

// Package joinservice admits machines to the cluster, and gives nodes that come back the
// keys of their disks.
//
// A machine proves on the attested channel what it booted and which device it is, and
// the service proves the same in return (attestation/atls). What the machine may be and
// may be called follows from those claims and from the cluster's [Policy]; its request can
// only agree with that. Package bindings remembers which device is which node.
//
// # Trust
//
// Callers are strangers until the channel has verified them, and trusted then with what
// their device was granted, and with nothing else. The API server is trusted with the
// policy and with the bindings: whoever may write those decides who joins. Keys come
// from KeyService, which knows this service by its service account.
//
// Every verdict, handshakes that failed among them, leaves one line in the audit log, and
// the same reason goes to the caller, to the metrics, and to a Kubernetes event. Keys,
// tickets and files of the control plane are never logged.
//
// # Not guaranteed
//
// Availability against more connections than the limits allow; that no copy of a key stays
// in memory that gRPC and TLS use; that a machine which was admitted still runs what it
// booted. A certificate that was signed is valid until it expires, whatever the policy
// says by then.
package joinservice
