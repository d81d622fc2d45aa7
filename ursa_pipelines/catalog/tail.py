"""`<prefix>/tail/`: marks of entries that may be newer than the tables (DESIGN section 6).

A mark is written before its entry, and removed only when the tables hold what it announced. So whoever lists the tail
first and then reads the tables misses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.entries import is_recording_hash
from ursa_pipelines.errors import CatalogError, ObjectExists, ObjectNotFound
from ursa_pipelines.objects.store import Bucket, ObjectInfo

_READERS = 64
_BATCH = "_batch"


@dataclass(frozen=True)
class Mark:
    """One mark: who may be newer (recording_hashes, or a participant_id that was edited), and by which write.

    `modified` is in seconds since 1970 UTC, by the store's clock.
    """

    key: str
    names: tuple[str, ...]
    txn: str
    modified: float


def mark(assets: Bucket, prefix: str, name: str, txn: str, attempt: int = 0) -> str:
    """Marks one recording_hash or participant_id; the mark's key. `attempt` tells one made anew from that before."""
    return _create(assets, f"{prefix}/tail/{name}.{txn}{f'-{attempt}' if attempt else ''}", b"")


def mark_batch(assets: Bucket, prefix: str, names: Sequence[str], txn: str, attempt: int = 0) -> str:
    """Marks many at once, all written by `txn`; the mark's key."""
    key = f"{prefix}/tail/{_BATCH}.{txn}{f'-{attempt}' if attempt else ''}"
    return _create(assets, key, json.dumps(list(names)).encode())


def read_tail(assets: Bucket, prefix: str) -> list[Mark]:
    """All marks. Raises `CatalogError` for a damaged one."""
    while True:
        infos = list(assets.list_objects(f"{prefix}/tail/"))
        with ThreadPoolExecutor(_READERS, thread_name_prefix="tail") as pool:
            marks = [one for one in pool.map(lambda info: _parsed(assets, info), infos) if one is not None]
        # One that is gone by now was folded, or a narrower one has come in its place: the list is made again.
        if len(marks) == len(infos):
            return marks


def remove(assets: Bucket, marks: Sequence[Mark]) -> None:
    """Removes marks whose entries the tables hold; one that is gone already is no error."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="tail") as pool:
        list(pool.map(lambda one: assets.remove(one.key), marks))


def _create(assets: Bucket, key: str, body: bytes) -> str:
    # One that exists is our own, of which the answer was lost.
    with suppress(ObjectExists):
        assets.create(key, body)
    failpoints.reached("register.marked")
    return key


def _parsed(assets: Bucket, info: ObjectInfo) -> Mark | None:
    name, _, suffix = info.key.rpartition("/")[2].rpartition(".")
    txn = suffix.partition("-")[0]
    # A single recording's mark is empty, whatever the recording is called.
    if name != _BATCH or info.size == 0:
        return Mark(info.key, (name,), txn, info.modified)
    try:
        names = json.loads(assets.get(info.key)[0])
        if not isinstance(names, list) or not all(isinstance(one, str) and is_recording_hash(one) for one in names):
            raise ValueError("these are no names")
        return Mark(info.key, tuple(names), txn, info.modified)
    except ObjectNotFound:
        return None
    except (ValueError, TypeError, RecursionError):
        raise CatalogError("the mark is damaged", place=f"{assets.name}/{info.key}") from None
