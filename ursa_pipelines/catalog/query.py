"""Reading many rows: filters, and recordings with their modalities (ursa-facts sections 6.5 and 9.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import IngestionStatus, ModalityRow, RecordingRow, Row

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Where = Mapping[str, Any]
QueryStatus = Literal["raw", "ingested"]


@dataclass(frozen=True)
class QueryResult:
    """One recording and its modalities, keyed `"eeg"`, or `"eeg_<worker_id>"` where it has several of the family."""

    recording: RecordingRow
    modalities: dict[str, ModalityRow] = field(default_factory=dict)

    @property
    def recording_hash(self) -> str:
        return self.recording.recording_hash


class QueryResultList(list[QueryResult]):
    """Results in order of their start time, which render as a table in notebooks."""

    def to_arrow(self) -> pa.Table:
        """One row per recording: hash, rec_id, start and end (UTC), duration, participants, modalities, bytes."""
        import pyarrow as pa

        schema = pa.schema(
            [
                ("recording_hash", pa.string()),
                ("rec_id", pa.string()),
                ("start_time", pa.timestamp("us", tz="UTC")),
                ("ended_at", pa.timestamp("us", tz="UTC")),
                ("duration", pa.duration("us")),
                ("participant_ids", pa.list_(pa.string())),
                ("modalities", pa.list_(pa.string())),
                ("bytes", pa.int64()),
                ("ingestion_status", pa.string()),
            ]
        )
        return pa.Table.from_pylist([_flat(result) for result in self], schema=schema)

    def to_pandas(self) -> pd.DataFrame:
        """`to_arrow()` as a pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html()


def matches(row: Row, where: Where | None) -> bool:
    """Whether a row passes every filter: equality, membership in a list, or half-open `("between", lo, hi)`.

    A list column, such as participant_ids, matches if any of its values does. Raises `ValueError` for a column
    that the row does not have.
    """
    for column, wanted in (where or {}).items():
        if not hasattr(row, column):
            raise ValueError(f"{row.table} has no column {column!r}")
        value = getattr(row, column)
        if not any(_matches_value(one, wanted) for one in (value if isinstance(value, list) else [value])):
            return False
    return True


def select(
    entries: Iterable[Entry],
    *,
    participants: Sequence[str] | None,
    modalities: Sequence[str] | None,
    status: QueryStatus | None,
    started_after: datetime | None,
    started_before: datetime | None,
    metadata: Mapping[str, Any] | None,
) -> QueryResultList:
    """The recordings among `entries` that pass every filter given; see `DataInterface.query`."""
    ids = {name if name.startswith("p_") else derive_participant_id(name) for name in participants or ()}
    results = QueryResultList()
    for entry in entries:
        recording = entry.recording
        if (
            (participants is not None and not ids & set(recording.participant_ids))
            or (started_after is not None and recording.start_time < started_after)
            or (started_before is not None and recording.start_time >= started_before)
            or any((recording.metadata or {}).get(key, _ABSENT) != value for key, value in (metadata or {}).items())
        ):
            continue
        named = _named_modalities(entry.modalities)
        chosen = {
            name: row
            for name, row in named.items()
            if (modalities is None or row.modality in modalities or name in modalities) and _has_status(row, status)
        }
        if chosen or (modalities is None and status is None):
            results.append(QueryResult(recording, chosen))
    results.sort(key=lambda result: (result.recording.start_time, result.recording_hash))
    return results


_ABSENT = object()


def _named_modalities(rows: Sequence[ModalityRow]) -> dict[str, ModalityRow]:
    families = [row.modality for row in rows]
    return {
        f"{row.modality}_{row.worker_id}" if families.count(row.modality) > 1 and row.worker_id else row.modality: row
        for row in rows
    }


def _has_status(row: ModalityRow, status: QueryStatus | None) -> bool:
    if status is None:
        return True
    if status not in {"raw", "ingested"}:
        raise ValueError(f"status={status!r}: it is 'raw', 'ingested' or None for any")
    return (row.ingestion_status is IngestionStatus.RAW) == (status == "raw")


def _matches_value(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple) and len(wanted) == 3 and wanted[0] == "between":
        return value is not None and wanted[1] <= value < wanted[2]
    if isinstance(wanted, (list, set, frozenset, tuple)):
        return value in wanted
    return value == wanted


def _flat(result: QueryResult) -> dict[str, Any]:
    recording = result.recording
    statuses = sorted({str(row.ingestion_status) for row in result.modalities.values()})
    return {
        "recording_hash": recording.recording_hash,
        "rec_id": recording.rec_id,
        "start_time": recording.start_time,
        "ended_at": recording.ended_at,
        "duration": recording.duration,
        "participant_ids": recording.participant_ids,
        "modalities": list(result.modalities),
        "bytes": sum(row.bytes for row in result.modalities.values()),
        "ingestion_status": ",".join(statuses) or None,
    }
