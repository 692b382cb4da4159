// SPDX-License-Identifier: Apache-2.0

// Package manifests holds the manifests of what runs in every cluster: the network
// of pods (flannel with WireGuard), services' addresses (kube-proxy with nftables),
// names (CoreDNS), keys (KeyService), and what nodes may do. They stand as they are
// applied in the files of this folder; Render sets what differs between clusters,
// in decoded objects: no parameter is pasted into a text.
//
// Trust boundary: parameters come from the owner, by an attested channel, and are
// checked. Images are named by digest and never fetched by kubelet: the installation
// of the component set has loaded them.
//
// What runs where, with which rights and why is in docs/kubernetes.md.
package manifests
