// SPDX-License-Identifier: Apache-2.0

// Package model holds atls.pml, the model of the attested channel that
// docs/atls.md describes, and the test that checks it. It has no code.
package model
