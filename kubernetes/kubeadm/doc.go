// SPDX-License-Identifier: Apache-2.0

// Package kubeadm makes the configuration with which kubeadm turns the first node
// into a control plane: kubeadm's own, kubelet's, and that of the API server's
// audit log, authentication and encryption at rest. Each setting stands, with its
// reason, in a file below files/; docs/kubernetes.md has them in one table.
//
// Trust boundary: the parameters come from the owner, by an attested channel, and
// are checked all the same: what is refused here would otherwise be a control plane
// that does not start, minutes later. There is no secret in any file.
//
// What it does not do: it neither runs kubeadm nor applies anything to the cluster
// (kubernetes/manifests, kubernetes/apply), and approves no kubelet's certificate
// (kubernetes/servingcert).
package kubeadm
