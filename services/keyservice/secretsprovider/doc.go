// SPDX-License-Identifier: Apache-2.0

// Package secretsprovider encrypts Kubernetes Secrets at rest: it is a provider of
// the KMS v2 protocol (k8s.io/kms/apis/v2), which kube-apiserver speaks on a local
// socket.
//
// kube-apiserver encrypts Secrets with keys of its own and has the provider
// encrypt their seed. In cluster-held mode that is done with a key of the
// hierarchy (purpose secrets-encryption), in user-managed mode by the user's KMS.
// After a rotation new seeds are encrypted with the newest version, and older ones
// are decrypted as long as their version is not retired.
//
// The provider needs neither the API server that it serves nor anything that
// runs on it: a file or a KMS, and a socket. Start it before the API server.
//
// Trust boundary: whoever can open the socket can decrypt; it is made with mode
// 0600. What the API server hands back to be decrypted comes from etcd, is not
// trusted, and is authenticated.
package secretsprovider
