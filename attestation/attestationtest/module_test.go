// SPDX-License-Identifier: Apache-2.0

package attestationtest

// module is the path of the module that all programs are of.
const module = "github.com/constellation-os/constellation"
