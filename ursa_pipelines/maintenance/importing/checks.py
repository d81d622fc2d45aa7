"""What is asked before a recording is imported: are its bytes here, is it here already, is its rec_id its own?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.entries import read_entry
from ursa_pipelines.catalog.policies import Resolve
from ursa_pipelines.errors import CatalogConflict, CatalogRowExists, RecordingConflict
from ursa_pipelines.maintenance.importing.recordings import Imported, Problem
from ursa_pipelines.objects.keys import parse_uri
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import IngestionStatus, ModalityRow, Rows

_FLUSHED_AT = 4_096


def missing_bytes(raw: Bucket, recording: Imported) -> list[Problem]:
    """One problem for each modality whose raw prefix lies elsewhere, or has no object below it. One LIST, as a rule."""
    directories: dict[str, set[str]] = {}
    problems = []
    for row, (file, number) in zip(recording.rows.modalities, recording.places, strict=True):
        for uri in _raw_uris(row):
            reason = _why_missing(raw, uri, directories)
            if reason is not None:
                problems.append(Problem("missing bytes", reason, file, number, recording.recording_hash))
    return problems


@dataclass(frozen=True)
class Seen:
    """What the catalog has of a recording: the columns with other values, and which rows that was told of."""

    columns: tuple[str, ...]
    fingerprint: str | None = None


def look_up(catalog: Catalog, recording: Imported, *, has_modalities: bool) -> Seen | None:
    """How the catalog differs, or None if it does not have the recording.

    "rec_id" if the recording, or the rec_id, is another's: that is never replaced.
    """
    found = read_entry(catalog.assets, catalog.prefix, recording.recording_hash)
    if found is not None:
        rows = found[0].rows
        return Seen(_differing(rows, recording.rows, has_modalities), fingerprint_of(rows))
    if recording.rec_id is not None:
        owner = read_claim(catalog.assets, catalog.prefix, recording.rec_id)
        if owner is not None and owner != recording.recording_hash:
            return Seen(("rec_id",))
    return None


def take_over(new: Rows, *, overwrite: bool, has_modalities: bool = True, seen: str | None = None) -> Resolve:
    """The policy of an import: absent is created, equal stays, different is `CatalogRowExists` or replaced.

    Rows that are not those that were `seen` are not replaced either: somebody has written since. What the entry tells
    of a participant is left as it is; so are its modalities if the source has no table of them.
    """

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            return new
        columns = _differing(existing, new, has_modalities)
        if not columns:
            return existing
        row = existing.recording
        told = f"its rows exist with other values in {', '.join(columns)}"
        if "rec_id" in columns:
            raise RecordingConflict(told, recording=new.recording.rec_id)
        if not overwrite:
            raise CatalogRowExists(told, table=row.table, primary_key=row.primary_key, recording=row.rec_id)
        if fingerprint_of(existing) != seen:
            raise CatalogConflict(
                "its rows were changed since this import was planned",
                recording=row.rec_id,
                remedy="Run the import again and look at what it would replace.",
            )
        participants = {one.participant_id: one for one in (*new.participants, *existing.participants)}
        return Rows(
            new.recording,
            new.modalities if has_modalities else existing.modalities,
            tuple(participants[key] for key in sorted(set(new.recording.participant_ids) & participants.keys())),
        )

    return resolve


def fingerprint_of(rows: Rows) -> str:
    """The same for the same rows, bookkeeping included."""
    document = [row.model_dump_json() for row in (rows.recording, *rows.modalities, *rows.participants)]
    return hashlib.sha256("\n".join(document).encode()).hexdigest()[:16]


class RecIds:
    """The rec_ids of recordings that are to be written, to find those that more than one has."""

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] = []
        self._parts: list[pa.Table] = []

    def add(self, recording: Imported, *, is_new: bool) -> None:
        if recording.rec_id is None:
            return
        file, row = recording.place
        self._pending.append(
            {"rec_id": recording.rec_id, "key": recording.recording_hash, "file": file, "row": row, "is_new": is_new}
        )
        if len(self._pending) >= _FLUSHED_AT:
            self._flush()

    def shared(self) -> list[tuple[Problem, bool]]:
        """A problem for each recording that shares its rec_id with another, and whether the recording is new."""
        self._flush()
        if not self._parts:
            return []
        table = pa.concat_tables(self._parts)
        counts = table.group_by("rec_id").aggregate([("key", "count")])
        several = counts.filter(pc.greater(counts["key_count"], 1))["rec_id"]
        reason = "another recording_hash of the source has the same manifest_recording_id"
        return [
            (Problem("rec_id", reason, one["file"], one["row"], one["key"]), one["is_new"])
            for one in table.filter(pc.is_in(table["rec_id"], several)).to_pylist()
        ]

    def _flush(self) -> None:
        if self._pending:
            part = pa.Table.from_pylist(self._pending)
            # Few files, named in every row.
            self._parts.append(part.set_column(2, "file", part["file"].dictionary_encode()))
            self._pending = []


def _raw_uris(row: ModalityRow) -> set[str]:
    # Before there was raw_storage_uri, the raw address stood in storage_uri.
    raw = row.storage_uri if row.ingestion_status is IngestionStatus.RAW else None
    return {uri for uri in (row.raw_storage_uri, raw) if uri}


def _why_missing(raw: Bucket, uri: str, directories: dict[str, set[str]]) -> str | None:
    try:
        bucket, key = parse_uri(uri)
    except ValueError:
        return "its raw address is no r2:// address"
    if bucket != raw.name:
        return f"its raw address lies in the bucket {bucket}, not in {raw.name}"
    parent, _, name = key.rstrip("/").rpartition("/")
    if not parent or not name:
        return "its raw address is no prefix of a recording"
    if parent not in directories:
        directories[parent] = set(raw.list_directories(f"{parent}/"))
    if name in directories[parent] or (not key.endswith("/") and raw.head(key) is not None):
        return None
    return "no object lies below its raw address"


def _differing(existing: Rows, new: Rows, has_modalities: bool) -> tuple[str, ...]:
    before, after = existing.recording, new.recording
    columns = _columns(before.comparable(), after.comparable())
    if before.rec_id and after.rec_id and before.rec_id != after.rec_id:
        columns.insert(0, "rec_id")
    if not has_modalities:
        return tuple(columns)
    old, own = ({row.primary_key: row.comparable() for row in rows.modalities} for rows in (existing, new))
    for key in sorted(old.keys() | own.keys(), key=str):
        name = "_".join(str(value) for _, value in key[1:] if value)
        if key not in old or key not in own:
            columns.append(f"modalities[{name}]")
        else:
            columns += [f"modalities[{name}].{column}" for column in _columns(old[key], own[key])]
    return tuple(columns)


def _columns(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
