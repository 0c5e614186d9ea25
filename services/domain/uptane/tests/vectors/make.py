#!/usr/bin/env python3
"""Makes the files beside it with python-tuf, so that our reader is held against another implementation.

Needs: pip install tuf securesystemslib[crypto]. Run it in this folder; the keys are thrown away, so every file changes.
Each file is signed by an Ed25519, an ECDSA P-256 and an RSA-PSS key, threshold 3: all three must verify.
"""

import datetime
import pathlib

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import MetaFile, Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

HERE = pathlib.Path(__file__).parent
EXPIRES = datetime.datetime(2035, 1, 1, tzinfo=datetime.timezone.utc)
SIGNERS = [
    CryptoSigner.generate_ed25519(),
    CryptoSigner.generate_ecdsa(),
    CryptoSigner.generate_rsa(scheme="rsassa-pss-sha256"),
]
ODD = {"text": "quote \" backslash \\ line\nbreak tab\t \u00e9 \U0001f697", "n": [0, -1, 9007199254740992, True, None]}


def write(name: str, signed) -> bytes:
    signed.unrecognized_fields["x-odd"] = ODD
    metadata = Metadata(signed)
    for signer in SIGNERS:
        metadata.sign(signer, append=True)
    data = metadata.to_bytes(JSONSerializer(compact=name != "root"))
    (HERE / f"{name}.json").write_bytes(data)
    return data


def meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
root.unrecognized_fields["x-uptane"] = {"repo": "image"}
for role in ["root", "timestamp", "snapshot", "targets"]:
    for signer in SIGNERS:
        root.add_key(signer.public_key, role)
    root.roles[role].threshold = 3
write("root", root)

target = TargetFile.from_data("bcm/1.0.0.raucb", b"bundle", ["sha256", "sha512"])
target.unrecognized_fields["custom"] = {
    "shall_match": {
        "hardware_ids": ["bcm-a1"],
        "release_counter": 3,
        "format": "rauc-verity",
        "rauc_manifest_hash": "00" * 32,
        "sw_version": "1.0.0",
    }
}
targets = write("targets", Targets(version=7, expires=EXPIRES, targets={target.path: target}))
snapshot = write("snapshot", Snapshot(version=5, expires=EXPIRES, meta={"targets.json": meta(7, targets)}))
write("timestamp", Timestamp(version=9, expires=EXPIRES, snapshot_meta=meta(5, snapshot)))
