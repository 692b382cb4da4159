// SPDX-License-Identifier: Apache-2.0

// Package imagetest holds tests of the built image: they read disk, root and manifest as somebody would who does not
// trust the tools that wrote them, with other programs where there are any. Machines are booted elsewhere (package
// e2e).
package imagetest
