// SPDX-License-Identifier: Apache-2.0

// Package fetched holds the tests of what Bazel makes of the package lock: the
// fetched packages and the build tools out of them.
package fetched
