// SPDX-License-Identifier: Apache-2.0

// Package archive reads Debian package archives from untrusted mirrors.
//
// Trust begins with the keys in the machine's Debian keyring. They sign a
// release file, which holds the hashes of the package indices, which hold the
// hashes of the packages: [Client.Index] and [Client.Package] return bytes
// only after the whole chain was checked, and read no more than the signed
// size. Only SHA-256 counts.
//
// What this does not guarantee: that a mirror shows the newest state. The main
// archive's releases carry no end date, so a mirror can withhold updates;
// callers compare [Release.Date] with the newest that they have seen.
package archive
