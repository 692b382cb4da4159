// SPDX-License-Identifier: Apache-2.0

// Package disk keeps the state disk: a whole disk, encrypted and authenticated, on which a node keeps everything that
// outlives a reboot.
//
// The host owns the disk. It can read it, write it at any moment, give another answer to the same read twice, and put
// an old copy in its place. So nothing on the disk is believed:
//
//   - The header is read once into memory, accepted only in the one form of package luks2, authenticated under a key
//     derived from the disk's key, and the kernel's tables are composed from that copy. The kernel never reads it.
//   - Data is authenticated sector by sector (AES-256-XTS, HMAC-SHA256): what the host changes is a read error.
//   - A generation is written to the header each time the disk is opened, and told to a [Witness] that the host does
//     not control. A disk that was put back as a whole to before its last opening, or a header of then, is refused with
//     [RollbackError].
//
// Every change of the header goes to one of its two copies at a time, so that a power cut at any write leaves a disk
// that opens: as before or as after. [Format] makes the disk ours with its very last write.
//
// Trust boundary: the kernel's dm-integrity reads its superblock and journal from the disk. Whoever forges them makes
// sectors unreadable and nothing else, since what dm-integrity returns is authenticated above it.
//
// Not guaranteed: availability; that data is the newest. Sectors are authenticated one by one, and the generation is in
// the header alone: a host that keeps the newest header can put back any sector, or all of them, as they once were on this
// disk. Nor which sectors are written when.
package disk

import "github.com/constellation-os/constellation/disk/luks2"

// KeySize is the size of a disk's key in bytes.
const KeySize = luks2.KeySize

// MinSize is the size of the smallest disk that can be formatted, in bytes.
const MinSize = 256 << 20
