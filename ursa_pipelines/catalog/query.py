"""Finding recordings with their modalities (ursa-facts section 9.1).

Times, participants, families and status are conditions of the tables (`tables.filters`); metadata is compared with
what is left. The side that has more conditions is read first, and the other only in the months of what was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from ursa_pipelines.catalog.results import QueryResult, QueryResultList, QueryStatus, Where
from ursa_pipelines.catalog.tables.scan import Snapshot
from ursa_pipelines.catalog.tables.schemas import PARTITION, row_of
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import IngestionStatus, ModalityRow, RecordingRow

if TYPE_CHECKING:
    import polars as pl


_ABSENT = object()


def query(
    snapshot: Snapshot,
    *,
    participant_ids: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    status: QueryStatus | None = None,
    started_after: datetime | None = None,
    started_before: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> QueryResultList:
    """The recordings of a snapshot that pass every filter given; see `DataInterface.query`.

    Raises `ValueError` for an unknown status and for a time without a zone.
    """
    if status not in {None, "raw", "ingested"}:
        raise ValueError(f"status={status!r}: it is 'raw', 'ingested' or None for any")
    modalities = [modalities] if isinstance(modalities, str) else modalities
    where: dict[str, Any] = {}
    if started_after is not None or started_before is not None:
        where["start_time"] = ("between", started_after, started_before)
    of_recordings = dict(where)
    if participant_ids is not None:
        of_recordings["participant_ids"] = list(participant_ids)
    if metadata and isinstance(metadata.get("manifest_recording_id"), str):
        of_recordings["rec_id"] = metadata["manifest_recording_id"]
    recordings = snapshot.frame("recordings", of_recordings)
    workers = snapshot.frame("modalities", {**where, **_families(modalities)})
    if participant_ids is None and not metadata and (modalities is not None or status is not None):
        rows = snapshot.collected(_chosen(workers, modalities, status), "modalities")
        found = snapshot.collected(_of_the_same(recordings, rows), "recordings")
    else:
        found = _with_metadata(snapshot.collected(recordings, "recordings"), metadata or {})
        # Before they are counted by recording, since no condition reaches the files past that.
        workers = _of_the_same(workers, found)
        rows = snapshot.collected(_chosen(workers, modalities, status), "modalities")
        if modalities is not None or status is not None:
            found = found.join(rows, on="recording_hash", how="semi")
    return _joined(found, rows)


def spellings(snapshot: Snapshot, participants: Sequence[str]) -> list[str]:
    """The ids of participants given by name or id, and of those who were merged into them."""
    names = [participants] if isinstance(participants, str) else participants
    ids = {name if name.startswith("p_") else derive_participant_id(name) for name in names}
    frame = snapshot.frame("participants").select("participant_id", "merged_into")
    merged = [pair for pair in snapshot.collected(frame, "participants").iter_rows() if pair[1] is not None]
    while further := {key for key, above in merged if above in ids} - ids:
        ids |= further
    return sorted(ids)


def _families(modalities: Sequence[str] | None) -> Where:
    """A condition on the family that keeps all workers of those asked for, who may be asked for by worker too."""
    if modalities is None:
        return {}
    return {"modality": sorted({name[:end] for name in modalities for end in (*_underscores(name), len(name))})}


def _chosen(workers: pl.LazyFrame, modalities: Sequence[str] | None, status: QueryStatus | None) -> pl.LazyFrame:
    """The modalities asked for, each with the `name` that it has in its result."""
    import polars as pl

    has_worker = pl.col("worker_id").fill_null("") != ""
    several = pl.len().over("recording_hash", "modality") > 1
    worker = pl.concat_str("modality", "worker_id", separator="_")
    name = pl.when(several & has_worker).then(worker).otherwise("modality").alias("name")
    frame = workers.with_columns(name)
    if modalities is not None:
        frame = frame.filter(pl.col("modality").is_in(list(modalities)) | pl.col("name").is_in(list(modalities)))
    if status is not None:
        is_raw = pl.col("ingestion_status") == IngestionStatus.RAW.value
        frame = frame.filter(is_raw if status == "raw" else ~is_raw)
    return frame


def _of_the_same(frame: pl.LazyFrame, found: pl.DataFrame) -> pl.LazyFrame:
    """The rows of the recordings that were found; files of other months are not opened."""
    import polars as pl

    months, hashes = (found[column].unique().implode() for column in (PARTITION, "recording_hash"))
    return frame.filter(pl.col(PARTITION).is_in(months) & pl.col("recording_hash").is_in(hashes))


def _with_metadata(found: pl.DataFrame, wanted: Mapping[str, Any]) -> pl.DataFrame:
    if not wanted or found.is_empty():
        return found
    documents = (json.loads(text) if text else {} for text in found["metadata"])
    return found.filter(
        [all(document.get(key, _ABSENT) == value for key, value in wanted.items()) for document in documents]
    )


def _joined(found: pl.DataFrame, rows: pl.DataFrame) -> QueryResultList:
    named: dict[str, dict[str, ModalityRow]] = {}
    for record in rows.sort("modality", "worker_id").iter_rows(named=True):
        name = record.pop("name")
        named.setdefault(record["recording_hash"], {})[name] = cast(ModalityRow, row_of("modalities", record))
    return QueryResultList(
        QueryResult(cast(RecordingRow, row_of("recordings", record)), named.get(record["recording_hash"], {}))
        for record in found.sort("start_time", "recording_hash").iter_rows(named=True)
    )


def _underscores(name: str) -> list[int]:
    return [place for place, letter in enumerate(name) if letter == "_"]
