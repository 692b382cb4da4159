#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Gets at a state disk without Constellation: usage: recover.py MASTER-SECRET-FILE VERSION DISK FOLDER

Reads the disk's header once, finds out with the key that follows from the master secret (docs/keys.md) whether it is
authentic, and writes into FOLDER the key (state.key) and a header made of what was checked (state.header), which cryptsetup
then opens the disk with: docs/state-disk.md, "Getting at the data by hand". It needs Python's standard library alone.

A header that is authentic is one of this disk's own. Whether it is the newest, only the cluster knows: its generation is printed.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys

COPY, AREA = 16 << 10, (32 + 2 * 376) << 10  # bytes of one copy of the header, and of all that is read
MAC = re.compile(rb'"mac":"([^"]*)"')


def hkdf(secret, salt, info):
    """RFC 5869 with SHA-256, 32 bytes."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info.encode() + b"\x01", "sha256")


def first_form(copy):
    """What the first copy is if this one says the same: magic, place and checksum differ."""
    bare = b"LUKS\xba\xbe" + copy[6:256] + bytes(8) + copy[264:448] + bytes(64) + copy[512:]
    return bare[:448] + hashlib.sha256(bare).digest() + bytes(32) + bare[512:]


def authentic(header, key):
    """Whether one of the MACs is over this header, as it is without checksum and MACs."""
    nothing = base64.b64encode(bytes(32))
    bare = header[:448] + bytes(64) + MAC.sub(b'"mac":"' + nothing + b'"', header[512:]).rstrip(b"\x00")
    mac = base64.b64encode(hmac.digest(hkdf(key, bytes(32), "constellation/v1/state-disk/header"), bare, "sha256"))
    return any(hmac.compare_digest(mac, found) for found in MAC.findall(header))


def main(master_file, version, disk, folder):
    with open(master_file) as f:
        master = json.load(f)
    secrets = {str(s["version"]): s["secret"] for s in master["secrets"]}
    if version not in secrets:
        sys.exit(f"no version {version}: the file has {', '.join(secrets)}")
    with open(disk, "rb") as f:
        area = f.read(AREA)
    good = []
    for copy in (area[:COPY], area[COPY : 2 * COPY]):
        header = first_form(copy)
        uuid = header[168:204].decode("ascii", "replace")
        label = "constellation/v1/state-disk/" + uuid
        key = hkdf(base64.b64decode(secrets[version]), base64.b64decode(master["salt"]), label)
        if authentic(header, key):
            good.append((int.from_bytes(header[16:24], "big"), header, uuid, key))
    if not good:
        sys.exit("not authentic: another disk's master secret or version, or somebody changed the header")
    _, header, uuid, key = max(good)
    os.umask(0o077)
    with open(os.path.join(folder, "state.key"), "wb") as f:
        f.write(key)
    with open(os.path.join(folder, "state.header"), "wb") as f:
        f.write(header + bytes(COPY) + area[2 * COPY :])
        f.truncate(16 << 20)
    tokens = json.loads(header[4096:].rstrip(b"\x00"))["tokens"].values()
    print("authentic:", uuid, "of generation", " and ".join(str(t["current"]["number"]) for t in tokens))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
