"""Proof that an object is what it should be, by the cheapest evidence that proves it (DESIGN section 5, rule 3).

The rungs are tried in this order: the commit marker's ETag equal to the one LIST shows; the SHA-256 in the
object's metadata; the bytes themselves, streamed. Size alone proves nothing.
"""

from __future__ import annotations

import hashlib
import re

from ursa_pipelines.errors import ObjectConflict
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import Marker

_DIGEST = re.compile(r"[0-9a-f]{64}")


def require_same_bytes(
    bucket: Bucket, info: ObjectInfo, *, rec_id: str, path: str, size: int, sha256: str, marker: Marker | None = None
) -> ObjectInfo:
    """Returns if the object has this size and digest. Raises `ObjectConflict`, which names both digests."""
    if info.size != size:
        raise ObjectConflict(
            f"the bucket has {info.size:,} bytes under this path, not {size:,}", recording=rec_id, place=path
        )
    if marker is not None and marker.proves(path, info, sha256):
        return info
    found = stored_digest(bucket, info.key)
    if found != sha256:
        raise ObjectConflict(
            f"the bucket has other bytes under this path: SHA-256 {found}, not {sha256}", recording=rec_id, place=path
        )
    return info


def stored_digest(bucket: Bucket, key: str) -> str:
    """The SHA-256 of an object: as its writer stated it in the metadata, in our form, else computed from its bytes.

    Raises `ObjectNotFound`.
    """
    info = bucket.head(key)
    if info is not None and info.sha256 and _DIGEST.fullmatch(info.sha256):
        return info.sha256
    state = hashlib.sha256()
    for chunk in bucket.stream(key):
        state.update(chunk)
    return state.hexdigest()
