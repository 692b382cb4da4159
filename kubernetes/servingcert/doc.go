// SPDX-License-Identifier: Apache-2.0

// Package servingcert approves the certificates with which kubelets serve logs and
// commands. Kubernetes signs them once they are approved, and approves none itself:
// it does not know which addresses are a node's.
//
// Without them the API server could not tell a kubelet from whoever has taken its
// address, and would give an administrator's commands to that one.
//
// Trust boundary: a request is what a node says. It is approved if the node asks for
// itself, for a server, and for no name or address but those that the caller vouches
// for; if it asks for more, it is denied. Nodes that the caller does not know are
// left to somebody else.
package servingcert
