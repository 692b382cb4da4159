// SPDX-License-Identifier: Apache-2.0

// Package images says what the container images of a cluster consist of, in its
// BUILD file. Its test looks into the bundle of them.
package images
