"""Recordings put together from staged tables, each with all its rows or refused as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ursa_pipelines.maintenance.importing.rows import BEYOND_BOUNDS, Participants, modality_of, recording_of
from ursa_pipelines.maintenance.importing.tables import FILE, ROW, SourceTable, staged
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.rows import ModalityRow, Rows

Kind = str
"""Of a problem: "invalid", "duplicate", "orphan", "missing bytes" or "rec_id"."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row: `row` counts from 1 in `file`, without a header."""

    kind: Kind
    reason: str
    file: str
    row: int
    recording_hash: str | None = None


@dataclass(frozen=True)
class Imported:
    """A recording as it shall be. `rec_id` is what it may claim; `place` and `places` are where its rows came from."""

    rows: Rows
    rec_id: str | None
    place: tuple[str, int]
    places: tuple[tuple[str, int], ...]
    old_names: int

    @property
    def recording_hash(self) -> str:
        return self.rows.recording.recording_hash


@dataclass(frozen=True)
class Refused:
    """Rows of one recording that are not imported, and why."""

    problems: tuple[Problem, ...]


def recordings_in(
    directory: Path, tables: Mapping[str, SourceTable], bucket: int, participants: Participants
) -> Iterator[Imported | Refused]:
    """The recordings of one file of the staged tables; last, modalities that have no recording."""
    recordings = staged(directory, "recordings", bucket)
    modalities = staged(directory, "modalities", bucket)
    spans = _spans(modalities)
    for key, span in _spans(recordings).items():
        records = _records(recordings, span)
        if key:
            yield _together(tables, records, _records(modalities, spans.pop(key, None)), participants)
        else:
            yield from (_together(tables, [record], [], participants) for record in records)
    for span in spans.values():
        table = tables["modalities"]
        yield Refused(
            tuple(
                _problem("orphan", "there is no recording of this recording_hash", table, record)
                for record in _records(modalities, span)
            )
        )


def _together(
    tables: Mapping[str, SourceTable],
    recordings: list[dict[str, Any]],
    modalities: list[dict[str, Any]],
    participants: Participants,
) -> Imported | Refused:
    table = tables["recordings"]
    first = recordings[0]
    if len(recordings) > 1:
        return Refused(
            tuple(_problem("duplicate", "the recording_hash is there twice", table, one) for one in recordings)
        )
    problems: list[Problem] = []
    read = [
        _attempt(lambda one: recording_of(one, participants, ours=table.is_ours), one, table, problems)
        for one in recordings
    ]
    rows, places, old_names = _modalities(tables, modalities, problems)
    if problems or read[0] is None:
        return Refused(tuple(problems))
    recording, source_ids = read[0]
    ordered = sorted(zip(rows, places, strict=True), key=lambda pair: (pair[0].modality, pair[0].worker_id or ""))
    return Imported(
        Rows(recording, tuple(row for row, _ in ordered), participants.of_recording(recording, source_ids)),
        recording.rec_id if recording.rec_id and is_rec_id(recording.rec_id) else None,
        _place(table, first),
        tuple(place for _, place in ordered),
        old_names,
    )


def _modalities(
    tables: Mapping[str, SourceTable], records: list[dict[str, Any]], problems: list[Problem]
) -> tuple[list[ModalityRow], list[tuple[str, int]], int]:
    rows: dict[Any, ModalityRow] = {}
    places, old_names = [], 0
    for record in records:
        table = tables["modalities"]
        read = _attempt(partial(modality_of, ours=table.is_ours), record, table, problems)
        if read is None:
            continue
        row, was_old = read
        if row.primary_key in rows:
            problems.append(_problem("duplicate", "its modality and worker_id are there twice", table, record))
        rows[row.primary_key] = row
        places.append(_place(table, record))
        old_names += was_old
    return list(rows.values()), places[: len(rows)], old_names


def _attempt(
    read: Callable[[dict[str, Any]], Any], record: dict[str, Any], table: SourceTable, problems: list[Problem]
) -> Any:
    try:
        return read(record)
    except ValueError as error:
        problems.append(_problem("invalid", str(error), table, record))
    except (OverflowError, RecursionError):
        problems.append(_problem("invalid", BEYOND_BOUNDS, table, record))
    return None


def _problem(kind: Kind, reason: str, table: SourceTable, record: Mapping[str, Any]) -> Problem:
    return Problem(kind, reason, *_place(table, record), record.get("recording_hash"))


def _place(table: SourceTable, record: Mapping[str, Any]) -> tuple[str, int]:
    return str(table.files[record[FILE]]), record[ROW]


def _records(table: pa.Table | None, span: tuple[int, int] | None) -> list[dict[str, Any]]:
    return table.slice(*span).to_pylist() if table is not None and span is not None else []


def _spans(table: pa.Table | None) -> dict[str | None, tuple[int, int]]:
    """Where each recording's rows are in a table that is in order of recordings: (start, length)."""
    spans: dict[str | None, tuple[int, int]] = {}
    for number, key in enumerate(table["recording_hash"].to_pylist() if table is not None else ()):
        start, length = spans.get(key, (number, 0))
        spans[key] = (start, length + 1)
    return spans
