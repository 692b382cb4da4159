// SPDX-License-Identifier: Apache-2.0

// Package reference holds tests only. They set the prediction of the real image
// against tools of other people that compute the same things: systemd-measure
// (PCR 11), tpm2_eventlog (replay of a log), systemd-pcrlock with a software TPM
// (the exported format), and the digest inside the kernel's own signature.
package reference
