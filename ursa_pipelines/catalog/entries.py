"""The entry of a recording: one document that holds its rows and their history (DESIGN section 6; docs/catalog.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ursa_pipelines.errors import (
    CatalogError,
    CatalogVersionUnknown,
    ObjectNotFound,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

ENTRY_VERSION = 1

_CARRIED = ("rebuild", "sweep")
"""Writes that carry an entry from one prefix to another: they say nothing new about the recording."""
_L = TypeVar("_L", bound="LogItem")
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


class Versioned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    version: Annotated[int, Field(ge=1)] = ENTRY_VERSION


class Entry(Versioned):
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
class Writer:
    """Who writes: kept in entries' logs. `run_id` is the Dagster run, if any."""

    by: str
    run_id: str | None = None


def entry_key(prefix: str, recording_hash: str) -> str:
    return f"{prefix}/entries/{recording_hash[:2]}/{recording_hash}.json"


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
        version = Versioned.model_validate_json(raw).version
        if version != ENTRY_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        return Entry.model_validate_json(raw)
    except ValidationError as error:
        raise CatalogError(
            f"the entry is damaged: {error.errors()[0]['msg']}",
            place=place,
            remedy="Keep a copy of it, then register the recording again from its bytes.",
        ) from None


def lineage(log: Iterable[LogItem]) -> set[str]:
    """The transactions that have something to say, without those that only carried it between prefixes.

    Of two logs, the one with all of the other's is the newer one.
    """
    return {item.txn for item in log if not item.op.startswith(_CARRIED)}


def joined_logs(log: Sequence[_L], other: Iterable[_L]) -> list[_L]:
    """A log and what only another one has, whose numbers go on from there."""
    joined, known = list(log), {item.txn for item in log}
    for item in other:
        if item.txn not in known:
            joined.append(item.model_copy(update={"seq": joined[-1].seq + 1 if joined else 1}))
    return joined
