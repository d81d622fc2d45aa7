"""The entry of a recording: one document that holds its rows, and the protocol that writes it (DESIGN section 6).

Register, in this order:
1. GET the entry, for a derived hash the one that the rec_id's claim names, if there is a claim. If the policy
   changes nothing, stop: nothing is written.
2. Write the tail marker and claim the rec_id, together. A claim that names another hash decides which hash is
   meant if ours was derived, and is a conflict if ours was stated.
3. PUT the entry: create-only if it was absent, else only over the version that was read.
4. A lost race re-reads and applies the policy again; our own `txn` in the entry's log means that we had won and
   only the answer was lost.
5. Read the pointer again. If it moved, do the same under the new prefix.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from ursa_pipelines.catalog.pointer import read_pointer, require_known_version
from ursa_pipelines.catalog.policies import Resolve
from ursa_pipelines.errors import (
    CatalogError,
    CatalogVersionUnknown,
    ETagMismatch,
    ObjectExists,
    ObjectNotFound,
    RecordingConflict,
    StoreUnavailable,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

ENTRY_VERSION = 1

ResolveFor = Callable[[str], Resolve]
"""Gives the policy to apply once it is known which recording_hash is meant."""

_ATTEMPTS = 30
_RETRY_SECONDS = 120
_HASH = re.compile(r"[A-Za-z0-9_-]{1,200}")


class LogItem(BaseModel):
    """One write in an entry's history."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    txn: str
    op: str
    by: str
    run_id: str | None = None
    at: UtcTime
    seq: int


class _Versioned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    version: Annotated[int, Field(ge=1)] = ENTRY_VERSION


class Entry(_Versioned):
    """The document `<prefix>/entries/<hh>/<recording_hash>.json`: the truth about one recording."""

    seq: int
    recording: RecordingRow
    modalities: list[ModalityRow] = Field(default_factory=list)
    participants: list[ParticipantRow] = Field(default_factory=list)
    months: list[str] = Field(default_factory=list)
    log: list[LogItem] = Field(default_factory=list)

    @property
    def rows(self) -> Rows:
        return Rows(self.recording, tuple(self.modalities), tuple(self.participants))


@dataclass(frozen=True)
class Registration:
    """What a register call came to: the entry as it stands, and whether this call made or changed it."""

    entry: Entry
    outcome: Literal["created", "changed", "unchanged"]


@dataclass(frozen=True)
class Writer:
    """Who writes: kept in entries' logs. `run_id` is the Dagster run, if any."""

    by: str
    run_id: str | None = None


def entry_key(prefix: str, recording_hash: str) -> str:
    return f"{prefix}/entries/{recording_hash[:2]}/{recording_hash}.json"


def claim_key(prefix: str, rec_id: str) -> str:
    return f"{prefix}/rec_ids/{rec_id}.json"


def read_entry(assets: Bucket, prefix: str, recording_hash: str) -> tuple[Entry, str] | None:
    """(entry, ETag), or None. Raises `CatalogError` for a damaged entry and `CatalogVersionUnknown`."""
    if not _HASH.fullmatch(recording_hash):
        return None
    key = entry_key(prefix, recording_hash)
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        return None
    return parse_entry(raw, place=f"{assets.name}/{key}"), info.etag


def parse_entry(raw: bytes, *, place: str) -> Entry:
    """The entry in `raw`. Raises `CatalogError` if it is damaged, `CatalogVersionUnknown` if it is too new."""
    try:
        # First, since another version may have another shape.
        version = _Versioned.model_validate_json(raw).version
        if version != ENTRY_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        return Entry.model_validate_json(raw)
    except ValidationError as error:
        raise CatalogError(
            f"the entry is damaged: {error.errors()[0]['msg']}",
            place=place,
            remedy="Keep a copy of it, then register the recording again from its bytes.",
        ) from None


def read_claim(assets: Bucket, prefix: str, rec_id: str) -> str | None:
    """The recording_hash that owns the rec_id, or None. Raises `CatalogError` for a damaged claim."""
    key = claim_key(prefix, rec_id)
    try:
        raw, _ = assets.get(key)
    except ObjectNotFound:
        return None
    try:
        return str(json.loads(raw)["recording_hash"])
    except (ValueError, KeyError, TypeError):
        raise CatalogError("the claim of the rec_id is damaged", place=f"{assets.name}/{key}") from None


@dataclass(frozen=True)
class Change:
    """What one register call wants. `resolve_for(hash)` is its policy for the hash that turns out to be meant."""

    recording_hash: str
    hash_is_stated: bool
    rec_id: str | None
    resolve_for: ResolveFor
    op: str
    writer: Writer
    txn: str = field(default_factory=lambda: secrets.token_hex(8))


def write_entry(assets: Bucket, prefix: str, change: Change, *, follow_pointer: bool) -> Registration:
    """Runs the protocol of this module.

    Raises `RecordingConflict` where rec_id and hash belong to others, and what the policy raises.
    """
    while True:
        require_known_version(assets, prefix)
        registration = _write_under(assets, prefix, change)
        live = read_pointer(assets).prefix if follow_pointer and registration.outcome != "unchanged" else prefix
        if live == prefix:
            return registration
        prefix = live


def _write_under(assets: Bucket, prefix: str, change: Change) -> Registration:
    recording_hash, announced = change.recording_hash, False
    if change.rec_id is not None and not change.hash_is_stated:
        recording_hash = read_claim(assets, prefix, change.rec_id) or recording_hash
    retrying = Retrying(
        retry=retry_if_exception_type((ETagMismatch, ObjectExists, StoreUnavailable)),
        wait=_pause_before_retry,
        stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_RETRY_SECONDS),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            found = read_entry(assets, prefix, recording_hash)
            current, etag = found if found else (None, None)
            if current and any(item.txn == change.txn for item in current.log):
                return Registration(current, "created" if current.seq == 1 else "changed")
            rows = change.resolve_for(recording_hash)(current.rows if current else None)
            if current and rows == current.rows:
                return Registration(current, "unchanged")
            if not announced:
                owner = _announce(assets, prefix, recording_hash, change)
                if owner != recording_hash:
                    recording_hash = _hash_of_owner(prefix, owner, change)
                    raise ETagMismatch("the rec_id belongs to another recording_hash", recording=change.rec_id)
                announced = True
            entry = _next_entry(current, rows, change)
            body = entry.model_dump_json().encode()
            if etag is None:
                assets.create(entry_key(prefix, recording_hash), body)
            else:
                assets.replace(entry_key(prefix, recording_hash), body, etag)
            return Registration(entry, "changed" if current else "created")
    raise AssertionError("tenacity re-raises the last error")


def _hash_of_owner(prefix: str, owner: str, change: Change) -> str:
    if not change.hash_is_stated:
        return owner
    raise RecordingConflict(
        f"its manifest states the recording_hash {change.recording_hash}, but {owner} is registered",
        recording=change.rec_id,
        remedy="Compare both recordings. If the other was never registered, its claim "
        f"{claim_key(prefix, change.rec_id or '')} is left over from an interrupted run.",
    )


def _announce(assets: Bucket, prefix: str, recording_hash: str, change: Change) -> str:
    """Marks the entry and claims the rec_id for it; the hash that owns the rec_id."""

    def mark() -> None:
        try:
            assets.create(f"{prefix}/tail/{recording_hash}.{change.txn}", b"")
        except ObjectExists:
            return

    def claim() -> str:
        if change.rec_id is None:
            return recording_hash
        document = {"recording_hash": recording_hash, "txn": change.txn, "claimed_at": datetime.now(UTC).isoformat()}
        try:
            assets.create(claim_key(prefix, change.rec_id), json.dumps(document).encode())
        except ObjectExists:
            return read_claim(assets, prefix, change.rec_id) or recording_hash
        return recording_hash

    with ThreadPoolExecutor(2) as pool:
        marked, claimed = pool.submit(mark), pool.submit(claim)
        marked.result()
        return claimed.result()


def _next_entry(current: Entry | None, rows: Rows, change: Change) -> Entry:
    seq = current.seq + 1 if current else 1
    writer = change.writer
    item = LogItem(txn=change.txn, op=change.op, by=writer.by, run_id=writer.run_id, at=datetime.now(UTC), seq=seq)
    month = rows.recording.start_time.strftime("%Y-%m")
    return (current or Entry(seq=0, recording=rows.recording)).model_copy(
        update={
            "seq": seq,
            "recording": rows.recording,
            "modalities": list(rows.modalities),
            "participants": list(rows.participants),
            "months": sorted({month, *(current.months if current else ())}),
            "log": [*(current.log if current else ()), item],
        }
    )


def _pause_before_retry(state: RetryCallState) -> float:
    # R2 takes one write a second per key; after an overload or a lost answer the same txn waits at least that long.
    overloaded = state.outcome is not None and isinstance(state.outcome.exception(), StoreUnavailable)
    jitter = wait_random_exponential(multiplier=0.05, max=2)(state)
    return 1.0 + jitter if overloaded else jitter
