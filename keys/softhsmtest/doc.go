// SPDX-License-Identifier: Apache-2.0

// Package softhsmtest makes tokens of SoftHSM2 for tests: a real PKCS#11 module,
// with its objects in files. It needs softhsm2-util on PATH and cgo. No program
// that ships may link it.
package softhsmtest
