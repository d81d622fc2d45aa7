"""The entry of a recording: one document that holds its rows and their history (DESIGN section 6; docs/catalog.md)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ursa_pipelines.errors import (
    CatalogError,
    CatalogVersionUnknown,
    ObjectNotFound,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

ENTRY_VERSION = 1
"""Of entries and of edits of participants."""

_CARRIED = ("rebuild", "sweep")
"""Writes that carry an entry from one prefix to another: they say nothing new about the recording."""
_L = TypeVar("_L", bound="LogItem")

Seq = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""The number of a write, as a column of the tables can hold it."""

_HASH = re.compile(r"[A-Za-z0-9_-]{1,200}")


class LogItem(BaseModel):
    """One write in an entry's history."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    txn: str
    op: str
    by: str
    run_id: str | None = None
    at: UtcTime
    seq: Seq


class Versioned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    version: Annotated[int, Field(ge=1)] = ENTRY_VERSION


class Entry(Versioned):
    """The document `<prefix>/entries/<hh>/<recording_hash>.json`: the truth about one recording."""

    seq: Seq
    recording: RecordingRow
    modalities: list[ModalityRow] = Field(default_factory=list)
    participants: list[ParticipantRow] = Field(default_factory=list)
    months: list[str] = Field(default_factory=list)
    log: list[LogItem] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Entry:
        if any(row.recording_hash != self.recording.recording_hash for row in self.modalities):
            raise ValueError("its rows are of different recordings")
        if self.log and self.seq != self.log[-1].seq:
            raise ValueError("its seq is not that of the last write in its log")
        if not isinstance(self.recording.rec_id, str | None):
            raise ValueError("its manifest_recording_id is no text")
        return self

    @property
    def rows(self) -> Rows:
        return Rows(self.recording, tuple(self.modalities), tuple(self.participants))


@dataclass(frozen=True)
class Writer:
    """Who writes: kept in entries' logs. `run_id` is the Dagster run, if any."""

    by: str
    run_id: str | None = None


def is_recording_hash(text: str) -> bool:
    """Whether an entry can have this hash."""
    return _HASH.fullmatch(text) is not None


def entry_key(prefix: str, recording_hash: str) -> str:
    return f"{prefix}/entries/{recording_hash[:2]}/{recording_hash}.json"


def read_entry(assets: Bucket, prefix: str, recording_hash: str) -> tuple[Entry, str] | None:
    """(entry, ETag), or None. Raises `CatalogError` for a damaged entry and `CatalogVersionUnknown`."""
    if not is_recording_hash(recording_hash):
        return None
    key = entry_key(prefix, recording_hash)
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        return None
    place = f"{assets.name}/{key}"
    return parse_entry(raw, place=place, recording_hash=recording_hash, sha256=info.sha256), info.etag


def parse_entry(raw: bytes, *, place: str, recording_hash: str | None = None, sha256: str | None = None) -> Entry:
    """The entry in `raw`, which must be of the recording by whose hash its key was made, if that is given.

    `sha256` is what its writer says of its bytes; who writes an entry by hand says nothing. Raises `CatalogError` if it
    is damaged, `CatalogVersionUnknown` if it is too new.
    """
    if sha256 is not None and sha256 != hashlib.sha256(raw).hexdigest():
        raise _damaged("its bytes are not those that were written", place)
    try:
        # First, since another version may have another shape.
        version = Versioned.model_validate_json(raw).version
        if version != ENTRY_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        entry = Entry.model_validate_json(raw)
    except ValidationError as error:
        raise _damaged(error.errors()[0]["msg"], place) from None
    if recording_hash not in {None, entry.recording.recording_hash}:
        raise _damaged("it is of another recording than its key says", place)
    return entry


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


def _damaged(how: str, place: str) -> CatalogError:
    return CatalogError(
        f"the entry is damaged: {how}",
        place=place,
        remedy="Keep a copy of it, then register the recording again from its bytes.",
    )
