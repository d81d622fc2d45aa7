"""The columns of the tables, and how entries become them and rows come back (ursa-facts section 6.3).

Times are microseconds, UTC; `duration_us` is microseconds, since Delta Lake has no durations; `device_info`, `metadata`
and `extra` (the fields that this version does not know) are JSON. `started_month` is the partition, of the
recording's start, such as `2026-05`; `seq` and `etag` are those of the entry that the row was folded from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.errors import CatalogError
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Row

TableName = Literal["modalities", "participants", "events", "recordings"]
TABLES: tuple[TableName, ...] = ("modalities", "participants", "events", "recordings")
"""In the order in which they are folded: what a recording refers to is there before it."""

PARTITION = "started_month"

_TIME = pa.timestamp("us", tz="UTC")

TOLD = pa.schema(
    [
        ("bytes", pa.int64()),
        ("files", pa.int64()),
        ("verification", pa.string()),
        ("ingested_from", pa.string()),
        ("registered_at", _TIME),
        ("nodes", pa.list_(pa.string())),
        ("nodes_missing", pa.list_(pa.string())),
    ]
)
"""Columns of recordings for what their metadata tells of an ingest; tables of format 1 lack them."""

SCHEMAS: dict[str, pa.Schema] = {
    "recordings": pa.schema(
        [
            pa.field("recording_hash", pa.string(), nullable=False),
            ("rec_id", pa.string()),
            pa.field("start_time", _TIME, nullable=False),
            ("ended_at", _TIME),
            ("duration_us", pa.int64()),
            ("participant_ids", pa.list_(pa.string())),
            ("device_info", pa.string()),
            ("metadata", pa.string()),
            *TOLD,
            ("extra", pa.string()),
            ("seq", pa.int64()),
            ("etag", pa.string()),
            (PARTITION, pa.string()),
        ]
    ),
    "modalities": pa.schema(
        [
            pa.field("recording_hash", pa.string(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            ("worker_id", pa.string()),
            ("format", pa.string()),
            ("ingestion_status", pa.string()),
            ("raw_storage_uri", pa.string()),
            ("storage_uri", pa.string()),
            ("segment_count", pa.int64()),
            ("bytes", pa.int64()),
            ("metadata", pa.string()),
            ("extra", pa.string()),
            ("start_time", _TIME),
            ("seq", pa.int64()),
            (PARTITION, pa.string()),
        ]
    ),
    "participants": pa.schema(
        [
            pa.field("participant_id", pa.string(), nullable=False),
            ("enrolled_at", _TIME),
            ("merged_into", pa.string()),
            ("metadata", pa.string()),
            ("extra", pa.string()),
            ("enrolled_by", pa.string()),
            ("named_by", pa.string()),
            ("named_since", _TIME),
            ("seq", pa.int64()),
        ]
    ),
    "events": pa.schema(
        [
            pa.field("recording_hash", pa.string(), nullable=False),
            ("seq", pa.int64()),
            ("event_time", _TIME),
            ("event_type", pa.string()),
            ("txn", pa.string()),
            ("written_by", pa.string()),
            ("run_id", pa.string()),
            (PARTITION, pa.string()),
        ]
    ),
}

_ROW_CLASSES: dict[str, type[Row]] = {
    "recordings": RecordingRow,
    "modalities": ModalityRow,
    "participants": ParticipantRow,
}
_JSON = ("device_info", "metadata")
_OF_THE_INDEX = {
    "recordings": {"rec_id", "duration_us", *TOLD.names, "seq", "etag", PARTITION, "extra"},
    "modalities": {"start_time", "seq", PARTITION, "extra"},
    "participants": {"enrolled_by", "named_by", "named_since", "seq", "extra"},
}
"""Columns that are no fields of a row."""


def month_of(moment: datetime) -> str:
    """The partition of a recording that started then."""
    return moment.strftime("%Y-%m")


def recordings_of(entries: Iterable[tuple[Entry, str]]) -> pa.Table:
    """The recordings of entries, each given with its ETag; one row per entry."""
    return pa.Table.from_pylist([_recording(entry, etag) for entry, etag in entries], schema=SCHEMAS["recordings"])


def modalities_of(entries: Iterable[tuple[Entry, str]]) -> pa.Table:
    """The modalities of entries."""
    rows = [_modality(entry, row) for entry, _ in entries for row in entry.modalities]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["modalities"])


def events_of(entries: Iterable[tuple[Entry, str]]) -> pa.Table:
    """The histories of entries: one row for each write."""
    rows = [
        {
            "recording_hash": entry.recording.recording_hash,
            "seq": item.seq,
            "event_time": item.at,
            "event_type": item.op,
            "txn": item.txn,
            "written_by": item.by,
            "run_id": item.run_id,
            PARTITION: month_of(entry.recording.start_time),
        }
        for entry, _ in entries
        for item in entry.log
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["events"])


def told_by(document: str | None) -> dict[str, Any]:
    """What metadata, as it stands in its column, tells in the columns `TOLD`.

    Who registers a row by hand may give any metadata: what does not fit a column is null there.
    """
    try:
        metadata = json.loads(document) if document else {}
    except (ValueError, RecursionError):
        metadata = {}
    return _told(metadata if isinstance(metadata, dict) else {})


def row_of(table: str, record: dict[str, Any]) -> Row:
    """The row in one record of a table, as `to_pylist()` gives it. Raises `CatalogError` for one that is damaged."""
    try:
        return _row_of(table, record)
    except (ValueError, TypeError, RecursionError) as error:
        raise table_damaged(f"a row of it is none ({type(error).__name__})", place=f"tables/{table}") from None


def table_damaged(how: str, *, place: str) -> CatalogError:
    return CatalogError(
        f"the table is damaged: {how}",
        place=place,
        remedy="Run `ursa catalog fold --all`, which makes the tables anew; the entries hold everything.",
    )


def _row_of(table: str, record: dict[str, Any]) -> Row:
    fields = {key: value for key, value in record.items() if key not in _OF_THE_INDEX[table]}
    for key in _JSON:
        if fields.get(key) is not None:
            fields[key] = json.loads(fields[key])
    if table == "recordings":
        fields["duration"] = timedelta(microseconds=record["duration_us"])
        fields["participant_ids"] = fields["participant_ids"] or []
    if table == "participants" and fields["merged_into"] is None:
        del fields["merged_into"]
    extra = json.loads(record["extra"]) if record.get("extra") else {}
    return _ROW_CLASSES[table].model_validate({**extra, **fields})


def json_of(document: dict[str, Any] | None) -> str | None:
    """A document as it stands in a JSON column."""
    return None if document is None else json.dumps(document, ensure_ascii=False, sort_keys=True)


def extra_of(row: Row) -> str | None:
    """The fields of a row that this version does not know, as they stand in the column `extra`."""
    extra = row.model_dump(mode="json", include=set(row.model_extra or ()))
    return json_of(extra) if extra else None


def _recording(entry: Entry, etag: str) -> dict[str, Any]:
    row = entry.recording
    return {
        "recording_hash": row.recording_hash,
        "rec_id": row.rec_id,
        "start_time": row.start_time,
        "ended_at": row.ended_at,
        "duration_us": row.duration // timedelta(microseconds=1),
        "participant_ids": row.participant_ids,
        "device_info": json_of(row.device_info),
        "metadata": json_of(row.metadata),
        **_told(row.metadata or {}),
        "extra": extra_of(row),
        "seq": entry.seq,
        "etag": etag,
        PARTITION: month_of(row.start_time),
    }


def _told(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: fitting(metadata.get(name)) for name, fitting in _FITTING.items()}


def _whole_number(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _texts(value: object) -> list[str] | None:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else None


_FITTING: dict[str, Callable[[object], Any]] = {
    "bytes": _whole_number,
    "files": _whole_number,
    "verification": _text,
    "ingested_from": _text,
    "registered_at": _moment,
    "nodes": _texts,
    "nodes_missing": _texts,
}


def _modality(entry: Entry, row: ModalityRow) -> dict[str, Any]:
    return {
        "recording_hash": row.recording_hash,
        "modality": row.modality,
        "worker_id": row.worker_id,
        "format": row.format,
        "ingestion_status": row.ingestion_status,
        "raw_storage_uri": row.raw_storage_uri,
        "storage_uri": row.storage_uri,
        "segment_count": row.segment_count,
        "bytes": row.bytes,
        "metadata": json_of(row.metadata),
        "extra": extra_of(row),
        "start_time": entry.recording.start_time,
        "seq": entry.seq,
        PARTITION: month_of(entry.recording.start_time),
    }
