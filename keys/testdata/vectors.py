#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes vectors.json: the key hierarchy computed from RFC 5869 by Python's standard library alone.

    python3 vectors.py > vectors.json
"""
import hashlib
import hmac
import json


def hkdf(secret, salt, info, length):
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    okm, block = b"", b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha256).digest()
        okm += block
    return okm[:length]


SALT = bytes(range(0xA0, 0xC0))
SECRETS = {1: bytes(range(32)), 2: hashlib.sha256(b"second master secret").digest()}
UUID = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"
WANTED = [
    (1, "state-disk", UUID, 32),
    (1, "state-disk", UUID, 64),
    (1, "state-disk", "7f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283", 32),
    (2, "state-disk", UUID, 32),
    (1, "persistent-volume", UUID, 32),
    (1, "persistent-volume", "pvc-" + UUID, 16),
    (1, "measurement", "cluster", 32),
    (1, "recovery", "cluster", 32),
    (1, "ssh-ca", "cluster", 32),
    (1, "secrets-encryption", "kms-v2", 32),
    (2, "secrets-encryption", "kms-v2", 32),
    (2, "recovery", "A-Z_a.z:0" + "x" * 119, 33),
]

keys = [
    {
        "version": version,
        "purpose": purpose,
        "id": name,
        "length": length,
        "key": hkdf(SECRETS[version], SALT, f"constellation/v1/{purpose}/{name}".encode(), length).hex(),
    }
    for version, purpose, name, length in WANTED
]
measurement = hkdf(SECRETS[1], SALT, b"constellation/v1/measurement/cluster", 32)
print(json.dumps({
    "salt": SALT.hex(),
    "secrets": [{"version": v, "secret": s.hex()} for v, s in SECRETS.items()],
    "cluster_id": hkdf(measurement, SALT, b"constellation/v1/cluster-id", 32).hex(),
    "keys": keys,
}, indent=2))
