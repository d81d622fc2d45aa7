"""Proof that an object holds the expected bytes, by the cheapest evidence that proves it (DESIGN section 5, rule 3).

1. Another size is another content, at once.
2. The commit marker names the ETag that LIST shows: it was written for this very version.
3. One HEAD: the SHA-256 that the store itself has of the whole object decides, both ways. The one that the writer
   stated in the metadata proves if it is the expected one.
4. The local file, if there is one, read once: it has the expected SHA-256, and the object's CRC64NVME, or its ETag as
   MD5 or as MD5 of parts, is that of the same bytes.
5. The object's bytes, streamed.

Only the store's own SHA-256 and the bytes tell of a conflict: an ETag need not be an MD5 (encryption), and metadata
may be a slip. CRCs of 32 bits are too short to prove anything, and SHA-1 of parts tells no more than the ETag.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from awscrt.checksums import crc64nvme

from ursa_pipelines.errors import ContentMismatch, ETagMismatch, ObjectConflict, ObjectNotFound, StoreUnavailable
from ursa_pipelines.objects.reading import Watchdog, fill, open_watched
from ursa_pipelines.objects.store import Bucket, Evidence, ObjectInfo
from ursa_pipelines.objects.stored import Marker
from ursa_pipelines.recordings.inventory import Inventory, SourceFile

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MD5_ETAG = re.compile(r"[0-9a-f]{32}(?:-([1-9][0-9]{0,4}))?")
_BUFFER_BYTES = 1024 * 1024
_MEGABYTES = (1024 * 1024, 1_000_000)
_USUAL_PART_SIZES = (
    *(5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 125, 128, 200, 250, 256, 500, 512),
    *(1000, 1024, 2000, 2048, 4000, 4096, 5000, 5120),
)
_PARTS_OF_GROWN_SIZE = 5_000

Kind = Literal["store's sha256", "store's crc64nvme", "etag as md5", "bytes"]


@dataclass(frozen=True)
class ContentProof:
    """The SHA-256 of a local file that was read in full, and how the object of this ETag was proved to hold it."""

    sha256: str
    etag: str
    kind: Kind


def require_same_bytes(
    bucket: Bucket,
    info: ObjectInfo,
    *,
    rec_id: str,
    path: str,
    size: int,
    sha256: str,
    marker: Marker | None = None,
    source: tuple[Inventory, SourceFile] | None = None,
    watchdog: Watchdog | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> ObjectInfo:
    """Returns `info`, an object as LIST or HEAD shows it, if it has this size and digest.

    `source` is the same file on this machine, whose reads `watchdog` watches. `check_stop` is called between chunks
    and may raise. Raises `ObjectConflict`, which names both digests; `ContentMismatch` if the local file had to be
    read and is damaged; `StoreUnavailable` if the object changes meanwhile; what `open_source` raises.
    """
    if info.size != size:
        raise ObjectConflict(
            f"the bucket has {info.size:,} bytes under this path, not {size:,}", recording=rec_id, place=path
        )
    if marker is not None and marker.proves(path, info, sha256):
        return info
    check_stop()
    evidence = bucket.evidence(info.key)
    if evidence is None or evidence.size != size:
        raise _changed(bucket, info.key)
    found = evidence.sha256
    if found is None:
        if _sha256_by_the_writer(evidence) == sha256:
            return info
        if source is not None and _local_file_proves(
            evidence, *source, sha256, watchdog or Watchdog(rec_id, math.inf), check_stop
        ):
            return info
        found = _sha256_of_the_bytes(bucket, info.key, evidence, check_stop)
    if found != sha256:
        raise ObjectConflict(
            f"the bucket has other bytes under this path: SHA-256 {found}, not {sha256}", recording=rec_id, place=path
        )
    return info


def prove_content(
    bucket: Bucket,
    info: ObjectInfo,
    source: tuple[Inventory, SourceFile],
    watchdog: Watchdog,
    *,
    by_bytes: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> ContentProof:
    """Reads a local file in full, and proves that the version `info` of an object holds the same bytes.

    By a checksum that the store itself has of the whole object, or, with `by_bytes` or without such a checksum, by
    reading the object. What its writer stated, a marker and a size prove nothing here. Raises `ObjectConflict` for
    other bytes, `StoreUnavailable` if the object is another version or changes, and what reading a source raises.
    """
    inventory, file = source
    evidence = bucket.evidence(info.key)
    if evidence is None or (evidence.size, evidence.etag) != (info.size, info.etag):
        raise _changed(bucket, info.key)
    if evidence.size != file.size:
        raise ObjectConflict(
            f"the bucket has {evidence.size:,} bytes under this path, not {file.size:,}",
            recording=inventory.rec_id,
            place=file.path,
        )
    sha256, by_checksum = _local_digest(evidence, inventory, file, watchdog, check_stop)
    kind: Kind | None = "store's sha256" if evidence.sha256 == sha256 else by_checksum
    found = evidence.sha256 or sha256
    if by_bytes or kind is None:
        kind, found = "bytes", _sha256_of_the_bytes(bucket, info.key, evidence, check_stop)
        now = bucket.head(info.key)
        if now is None or now.etag != info.etag:
            raise _changed(bucket, info.key)
    if found != sha256:
        raise ObjectConflict(
            f"the bucket has other bytes under this path: SHA-256 {found}, not {sha256}",
            recording=inventory.rec_id,
            place=file.path,
        )
    return ContentProof(sha256, info.etag, kind)


def stated_digest(bucket: Bucket, key: str) -> str | None:
    """The SHA-256 that an object's writer stated, else the store's own; None without either or without the object."""
    evidence = bucket.evidence(key)
    return (_sha256_by_the_writer(evidence) or evidence.sha256) if evidence else None


def stored_digest(
    bucket: Bucket,
    key: str,
    *,
    check_stop: Callable[[], None] = lambda: None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> str:
    """The SHA-256 of an object by rungs 3 and 5, with nothing to compare it with: its writer's word counts.

    `on_bytes` is told of bytes that had to be read. Raises `ObjectNotFound`, and `StoreUnavailable` if the object
    changes meanwhile.
    """
    evidence = _evidence(bucket, key)
    return (
        evidence.sha256
        or _sha256_by_the_writer(evidence)
        or _sha256_of_the_bytes(bucket, key, evidence, check_stop, on_bytes)
    )


def streamed_digest(
    bucket: Bucket,
    key: str,
    *,
    check_stop: Callable[[], None] = lambda: None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> str:
    """The SHA-256 of an object's bytes, whatever is said of them. Raises what `stored_digest` raises."""
    return _sha256_of_the_bytes(bucket, key, _evidence(bucket, key), check_stop, on_bytes)


def part_sizes(size: int, parts: int) -> list[int]:
    """The part sizes, in bytes, by which a known client sends an object of `size` bytes in that many parts."""
    if parts == 1:
        # Any size that holds all of it gives the same part.
        return [max(size, 1)]
    smallest, largest = -(-size // parts), (size - 1) // (parts - 1)
    candidates = {number * megabyte for number in _USUAL_PART_SIZES for megabyte in _MEGABYTES}
    if parts > _PARTS_OF_GROWN_SIZE:
        # Where 10,000 parts do not do, some take the ten-thousandth (AWS), or that in whole MiB (rclone).
        candidates |= {smallest, -(-smallest // _MEGABYTES[0]) * _MEGABYTES[0]}
    return sorted(one for one in candidates if smallest <= one <= largest)


def _evidence(bucket: Bucket, key: str) -> Evidence:
    evidence = bucket.evidence(key)
    if evidence is None:
        raise ObjectNotFound("there is no such object", place=f"{bucket.name}/{key}")
    return evidence


def _sha256_by_the_writer(evidence: Evidence) -> str | None:
    stated = evidence.stated_sha256
    return stated if stated and _DIGEST.fullmatch(stated) else None


def _local_file_proves(
    evidence: Evidence,
    inventory: Inventory,
    file: SourceFile,
    sha256: str,
    watchdog: Watchdog,
    check_stop: Callable[[], None],
) -> bool:
    if evidence.crc64nvme is None and not _candidates(evidence.etag.strip('"'), file.size):
        return False
    found, kind = _local_digest(evidence, inventory, file, watchdog, check_stop)
    if found != sha256:
        raise ContentMismatch(
            f"its SHA-256 is {found}, but {sha256} is expected",
            recording=inventory.rec_id,
            place=file.path,
        )
    return kind is not None


def _local_digest(
    evidence: Evidence,
    inventory: Inventory,
    file: SourceFile,
    watchdog: Watchdog,
    check_stop: Callable[[], None],
) -> tuple[str, Kind | None]:
    """The SHA-256 of a local file, and which of the store's checksums of the object is that of the same bytes."""
    etag = evidence.etag.strip('"')
    # MD5 is slow: where there is a CRC64NVME, which costs next to nothing, it says enough.
    candidates = _candidates(etag, file.size) if evidence.crc64nvme is None else []
    state, crc = hashlib.sha256(), 0
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(file.size, 1))))
    with open_watched(inventory, file, watchdog) as stream:
        while count := fill(stream, buffer, file.path, watchdog):
            check_stop()
            chunk = buffer[:count]
            state.update(chunk)
            crc = crc64nvme(chunk, crc)
            for candidate in candidates:
                candidate.update(chunk)
    if crc == evidence.crc64nvme:
        return state.hexdigest(), "store's crc64nvme"
    return state.hexdigest(), "etag as md5" if any(one.etag == etag for one in candidates) else None


def _candidates(etag: str, size: int) -> list[_MD5OfParts]:
    match = _MD5_ETAG.fullmatch(etag)
    if match is None:
        return []
    return [_MD5OfParts(one) for one in part_sizes(size, int(match[1]))] if match[1] else [_MD5OfParts(None)]


class _MD5OfParts:
    """The ETag of what it is given: as sent in parts of this size, or in one request if `part_size` is None."""

    def __init__(self, part_size: int | None) -> None:
        self._part_size, self._room = part_size, part_size or 0
        self._part, self._parts = hashlib.md5(usedforsecurity=False), b""

    def update(self, chunk: memoryview) -> None:
        while self._part_size and len(chunk) > self._room:
            self._part.update(chunk[: self._room])
            chunk = chunk[self._room :]
            self._parts += self._part.digest()
            self._part, self._room = hashlib.md5(usedforsecurity=False), self._part_size
        self._part.update(chunk)
        self._room -= len(chunk)

    @property
    def etag(self) -> str:
        if self._part_size is None:
            return self._part.hexdigest()
        parts = self._parts + self._part.digest()
        return f"{hashlib.md5(parts, usedforsecurity=False).hexdigest()}-{len(parts) // self._part.digest_size}"


def _sha256_of_the_bytes(
    bucket: Bucket,
    key: str,
    evidence: Evidence,
    check_stop: Callable[[], None],
    on_bytes: Callable[[int], None] = lambda count: None,
) -> str:
    state = hashlib.sha256()
    try:
        for chunk in bucket.read(key, evidence.size):
            state.update(chunk)
            on_bytes(len(chunk))
            check_stop()
    except (ObjectNotFound, ETagMismatch):
        raise _changed(bucket, key) from None
    return state.hexdigest()


def _changed(bucket: Bucket, key: str) -> StoreUnavailable:
    return StoreUnavailable("it changed or vanished while it was compared", place=f"{bucket.name}/{key}")
