// SPDX-License-Identifier: Apache-2.0

// Package manifests holds the manifests of the services that run in the cluster.
// Its test has a real API server check them.
package manifests
