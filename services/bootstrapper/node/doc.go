// SPDX-License-Identifier: Apache-2.0

// Package node is the machine that a bootstrapper runs on, as package steps wants it:
// its TPM, its service manager and its files, the diskmapper, and its API server.
//
// It needs no capability. What needs one is done by services that it starts.
package node
