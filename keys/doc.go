// SPDX-License-Identifier: Apache-2.0

// Package keys is the key hierarchy: from one master secret it derives every
// data key of a cluster, each for one purpose and one thing.
//
//	data key = HKDF-SHA256(secret: master secret, salt: the cluster's salt,
//	                       info: "constellation/v1/" purpose "/" id)
//
// A master secret has versions. New keys come from the newest; keys of an older
// version can be derived until that version is retired. Whoever gets a key
// learns its version and must ask for that version to get the same key again.
//
// The cluster's identity, the cluster ID, does not rotate: nodes have extended
// PCR 15 with it. It follows from the measurement secret, which comes from
// version 1 and is kept by itself once that version is retired.
//
// Trust boundary: whoever holds a [Keyring] can derive everything. Callers of
// this package decide who may have which key; nothing here does. Ids and
// lengths are checked and may come from strangers.
//
// The package makes mistakes hard: a [Key] carries its purpose in its type, and
// a [Secret] does not come out of fmt, log/slog or encoding/json.
//
// Not guaranteed: that no copy of a secret stays in memory. What this package
// holds is overwritten by Wipe, and by the garbage collector's cleanups. Copies
// made by the standard library (the state of HMAC, for example) and by callers
// are out of reach. Keep secrets off disks by other means: no core dumps, no swap.
package keys
