// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 wraps keys with an AES key in a hardware security module that
// is reached through PKCS#11 (OASIS PKCS #11 Cryptographic Token Interface, 2.40).
//
// A key encryption key is named by a URI of RFC 7512:
//
//	pkcs11:token=prod;object=constellation?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin
//
// The PIN is in the file that pin-source names, never in the URI. Keys are
// wrapped with AES-GCM, the context as additional data; the HSM's key never
// leaves it and is never asked for.
//
// Trust boundary: the module is a shared library that runs in this process and is
// as trusted as the program itself. What it returns is checked for its length.
//
// Not guaranteed: that a call ends. A module may hang, and a C function cannot be
// interrupted; package managed bounds how many calls hang and for how long their
// callers wait.
//
// Programs built without cgo parse URIs and open nothing.
package pkcs11
