// SPDX-License-Identifier: Apache-2.0

// Package keyservice answers requests for data keys, to callers who prove who
// they are and may have what they ask for.
//
// A caller shows a projected token of its Kubernetes service account, made for
// our audience. The API server says whose it is (TokenReview); a [Policy] says
// which service account may ask for which purpose. What is not granted is denied.
// The keys come from a [keys.Source]: the master secret, or the user's KMS.
//
// Trust boundary: everything from the network is untrusted until the token was
// reviewed; then the caller is trusted with the purposes granted to it, and with
// nothing else. The API server and whoever may create tokens for a service
// account can act as that account. A NetworkPolicy may narrow who reaches the
// port; nothing rests on it.
//
// Each request leaves one line in the audit log: who, what purpose and id, the
// verdict. Keys and tokens are never logged.
//
// Not guaranteed: availability against a flood of connections beyond the limits
// in [Limits]; and that no copy of a key stays in memory that gRPC and TLS use.
package keyservice
