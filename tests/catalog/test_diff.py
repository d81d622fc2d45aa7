"""What two catalogs say differently is told row by row and column by column, without anybody's name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.catalog.by_hand import rec_id, row
from tests.lab import Lab
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.diff import Example, TableDiff, diff
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import create_catalog
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

WRITER = Writer(by="test")
OTHER = "ursa/other"


@pytest.fixture
def catalogs(lab: Lab) -> Iterator[tuple[Catalog, Catalog]]:
    """The live catalog and another, both empty."""
    create_catalog(lab.assets, OTHER, by="test")
    yield Catalog.open(lab.assets), Catalog.open(lab.assets, prefix=OTHER)


def test_catalogs_that_say_the_same_do_not_differ_however_their_rows_came_about(catalogs: tuple[Catalog, Catalog]):
    for number, catalog in enumerate(catalogs):
        told = {"registered_by": f"{number}", "verification": "size", "nodes": [f"{number}"]}
        recording = row(0).model_copy(update={"metadata": {"manifest_recording_id": rec_id(0), **told}})
        catalog.register_recording(recording, "error", WRITER)

    found = diff(*catalogs)

    assert found.is_empty
    assert [(table.table, table.live_rows, table.other_rows) for table in found.tables] == [
        ("recordings", 1, 1),
        ("modalities", 0, 0),
        ("participants", 0, 0),
    ]


def test_added_missing_and_changed_recordings_are_named(catalogs: tuple[Catalog, Catalog]):
    live, other = catalogs
    for number in range(3):
        live.register_recording(row(number), "error", WRITER)
    other.register_recording(row(1, minutes=7), "error", WRITER)
    for number in (2, 3):
        other.register_recording(row(number), "error", WRITER)

    recordings = diff(live, other).tables[0]

    assert recordings.missing == ((f"{0:064x}", rec_id(0)),)
    assert recordings.added == ((f"{3:064x}", rec_id(3)),)
    assert recordings.changed == ((f"{1:064x}", rec_id(1)),)
    assert {column.column: column.count for column in recordings.columns} == {"duration_us": 1, "ended_at": 1}
    [duration] = [column for column in recordings.columns if column.column == "duration_us"]
    assert duration.examples == (Example((f"{1:064x}", rec_id(1)), "60000000", "420000000"),)


def test_modalities_are_compared_one_by_one(catalogs: tuple[Catalog, Catalog]):
    for segments, catalog in enumerate(catalogs):
        catalog.register_recording(row(0), "error", WRITER)
        for worker_id, count in (("a", segments), ("b", 5), (None, 5)):
            modality = ModalityRow(
                recording_hash=f"{0:064x}",
                modality="mic",
                worker_id=worker_id,
                format="raw_audio",
                segment_count=count,
                metadata={"nodes": [f"{segments}"]},
            )
            catalog.register_modality(modality, "error", WRITER)

    modalities = diff(*catalogs).tables[1]

    assert modalities.changed == ((f"{0:064x}", "mic", "a"),)
    assert [(column.column, column.count) for column in modalities.columns] == [("segment_count", 1)]


def test_a_field_that_this_version_does_not_know_counts(catalogs: tuple[Catalog, Catalog]):
    live, other = catalogs
    live.register_recording(row(0), "error", WRITER)
    other.register_recording(RecordingRow.model_validate(row(0).model_dump() | {"colour": "green"}), "error", WRITER)

    assert [column.column for column in diff(live, other).tables[0].columns] == ["extra"]


def test_no_name_is_in_the_result(catalogs: tuple[Catalog, Catalog]):
    for name, catalog in zip(("Aria Lin", "Aria Linn"), catalogs, strict=True):
        register_with_name(catalog, name)

    found = diff(*catalogs)

    participants = found.tables[2]
    assert participants.changed == (("p_one",),)
    assert [(column.column, column.count) for column in participants.columns] == [("metadata", 1)]
    assert "Aria" not in repr(found)


def test_examples_are_few_and_counts_are_whole(catalogs: tuple[Catalog, Catalog]):
    for minutes, catalog in enumerate(catalogs, start=1):
        catalog.register_recordings([row(number, minutes=minutes) for number in range(30)], "error", WRITER)

    recordings: TableDiff = diff(*catalogs).tables[0]

    assert len(recordings.changed) == 30
    assert {(column.count, len(column.examples)) for column in recordings.columns} == {(30, 5)}


def register_with_name(catalog: Catalog, name: str) -> None:
    start = datetime(2026, 5, 20, tzinfo=UTC)
    recording = RecordingRow(
        recording_hash="hash", participant_ids=["p_one"], start_time=start, duration=timedelta(minutes=1)
    )
    participant = ParticipantRow(participant_id="p_one", enrolled_at=start, metadata={"display_name": name})
    resolve = policies.ingest(Rows(recording, (), (participant,)), overwrite=False)
    catalog.write("hash", lambda _: resolve, rec_id=None, hash_is_stated=True, op="ingest", writer=WRITER)
