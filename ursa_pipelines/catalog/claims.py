"""`<prefix>/rec_ids/<rec_id>.json`: which recording_hash owns a rec_id (DESIGN section 6).

Whoever creates the claim owns the rec_id. One whose entry was never written can be released, which is a write over
it: claims are never deleted.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from ursa_pipelines.catalog.entries import is_recording_hash
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.errors import CatalogError, ETagMismatch, ObjectExists, ObjectNotFound
from ursa_pipelines.objects.store import Bucket, ObjectInfo


def claim_key(prefix: str, rec_id: str) -> str:
    return f"{prefix}/rec_ids/{rec_id}.json"


def read_claim(assets: Bucket, prefix: str, rec_id: str) -> str | None:
    """The recording_hash that owns the rec_id, or None. Raises `CatalogError` for a damaged claim."""
    found = _read(assets, prefix, rec_id)
    return found[0]["recording_hash"] if found else None


def claim(assets: Bucket, prefix: str, rec_id: str, recording_hash: str, txn: str) -> tuple[str, bool]:
    """Claims the rec_id for a recording; (the hash that owns it now, whether that was decided by this call)."""
    key = claim_key(prefix, rec_id)
    document = {"recording_hash": recording_hash, "txn": txn, "claimed_at": datetime.now(UTC).isoformat()}
    body = json.dumps(document).encode()
    try:
        assets.create(key, body)
        return recording_hash, True
    except ObjectExists:
        found = _read(assets, prefix, rec_id)
    if found and found[0]["recording_hash"] is None:
        try:
            assets.replace(key, body, found[1].etag)
            return recording_hash, True
        except ETagMismatch:
            found = _read(assets, prefix, rec_id)
    document = found[0] if found else {}
    return document.get("recording_hash") or recording_hash, document.get("txn") == txn


def release_claim(assets: Bucket, prefix: str, rec_id: str, *, entry_is_there: bool, by: str, idle: float) -> str:
    """Gives a rec_id free whose recording was never registered; the hash that had owned it.

    Raises `CatalogError` if there is no claim, if its entry is there, or if it is younger than `idle` seconds and its
    writer may still be at work.
    """
    found = _read(assets, prefix, rec_id)
    place = f"{assets.name}/{claim_key(prefix, rec_id)}"
    if found is None or found[0]["recording_hash"] is None:
        raise CatalogError("nobody has claimed this rec_id", recording=rec_id, place=place, remedy="Nothing to do.")
    document, info = found
    if entry_is_there:
        raise CatalogError(
            f"it is registered as {document['recording_hash']}", recording=rec_id, place=place, remedy="Nothing to do."
        )
    owner = str(document["recording_hash"])
    if time.time() - info.modified < idle or _is_being_written(assets, prefix, owner, idle):
        raise CatalogError(
            f"it was claimed less than {idle / 3600:g} h ago, or its writer is at work",
            recording=rec_id,
            place=place,
            remedy="Wait, then retry.",
        )
    released = {**document, "recording_hash": None, "released_by": by, "released_at": datetime.now(UTC).isoformat()}
    etag = assets.replace(claim_key(prefix, rec_id), json.dumps(released).encode(), info.etag).etag
    if _is_being_written(assets, prefix, owner, idle):
        # Begun since we looked, on the strength of the claim: it gets it back.
        assets.replace(claim_key(prefix, rec_id), json.dumps(document).encode(), etag)
        raise CatalogError("its writer is at work", recording=rec_id, place=place, remedy="Wait, then retry.")
    return owner


def _is_being_written(assets: Bucket, prefix: str, recording_hash: str, idle: float) -> bool:
    """Whether a write was announced that may still come; older marks are left over, as the claim is."""
    since = time.time() - idle
    return any(recording_hash in mark.names and mark.modified > since for mark in read_tail(assets, prefix))


def _read(assets: Bucket, prefix: str, rec_id: str) -> tuple[dict[str, Any], ObjectInfo] | None:
    try:
        return _read_once(assets, prefix, rec_id)
    except CatalogError:
        # It may have been the answer that was damaged.
        return _read_once(assets, prefix, rec_id)


def _read_once(assets: Bucket, prefix: str, rec_id: str) -> tuple[dict[str, Any], ObjectInfo] | None:
    key = claim_key(prefix, rec_id)
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        return None
    try:
        document = json.loads(raw)
        owner = document["recording_hash"]
    except (ValueError, KeyError, TypeError, RecursionError):
        owner = ""
    if owner is not None and not (isinstance(owner, str) and is_recording_hash(owner)):
        raise CatalogError("the claim of the rec_id is damaged", place=f"{assets.name}/{key}")
    return document, info
