"""Rows registered by hand, and a pointer that is moved by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tests.lab import Lab
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import CatalogDocument, Pointer, read_pointer
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.recordings.rows import RecordingRow

PREFIX, NEW_PREFIX = "ursa/catalog", "ursa/catalog-2"
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
WRITER = Writer(by="tester@bench", run_id="run-1")


def rec_id(number: int) -> str:
    return f"rec_20260520_195628_{number:04x}"


def hash_of(number: int) -> str:
    return f"{number:064x}"


def row(number: int, *, minutes: int = 1, participant_ids: Sequence[str] = ()) -> RecordingRow:
    """A recording of so many minutes; each starts a second after the one before."""
    start, duration = START + timedelta(seconds=number), timedelta(minutes=minutes)
    return RecordingRow(
        recording_hash=hash_of(number),
        participant_ids=list(participant_ids),
        start_time=start,
        duration=duration,
        ended_at=start + duration,
        metadata={"manifest_recording_id": rec_id(number)},
    )


def create_catalog(lab: Lab, prefix: str) -> None:
    document = CatalogDocument(created_at=START, created_by="test")
    lab.assets.create(f"{prefix}/CATALOG.json", document.model_dump_json().encode())


def move_pointer(lab: Lab, prefix: str) -> None:
    """Makes an empty catalog the live one, without a sweep."""
    create_catalog(lab, prefix)
    point_to(lab, prefix)


def point_to(lab: Lab, prefix: str) -> None:
    """Makes a catalog the live one, without a sweep."""
    _, info = lab.assets.get(ACTIVE_POINTER)
    pointer = Pointer(prefix=prefix, previous=[read_pointer(lab.assets).prefix], updated_at=START)
    lab.assets.replace(ACTIVE_POINTER, pointer.model_dump_json().encode(), info.etag)
