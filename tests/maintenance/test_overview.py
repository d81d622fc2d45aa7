"""The figures of a catalog are those of its rows, however they were folded."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.tables import scan
from ursa_pipelines.maintenance.agreement import compare_sample
from ursa_pipelines.maintenance.overview import DayTotals, FamilyTotals, Overview, take_overview, told_bytes
from ursa_pipelines.recordings.rows import RecordingRow

DAY = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)


def registered(lab: Lab, number: int, *, day: int = 0, people: int = 0, metadata: dict[str, Any] | None = None) -> str:
    row = lab.data.register_recording(
        recording_hash=f"{number:064x}",
        start_time=DAY + timedelta(days=day),
        duration=timedelta(minutes=1),
        participant_ids=[f"p_{index:016x}" for index in range(people)],
        metadata=metadata,
    )
    return row.recording_hash


def test_an_empty_catalog_has_nothing(lab: Lab):
    assert take_overview(lab.data.catalog) == Overview()
    assert take_overview(lab.data.catalog, backlog_hours=[3, 1]).backlog_hours == (1, 3)


@pytest.mark.parametrize("rows_at_once", [1, 65_536])
def test_recordings_are_counted_by_day_participants_and_level(
    rows_at_once: int, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scan, "_BATCH_ROWS", rows_at_once)
    registered(lab, 1, people=2, metadata={"bytes": 10, "verification": "sha256", "nodes_missing": []})
    registered(lab, 2, people=2, metadata={"bytes": 5, "verification": "size", "nodes_missing": ["node-b"]})
    lab.data.fold()
    registered(lab, 3, day=2, metadata={"bytes": 7, "registered_at": "2026-06-01T10:00:00Z"})
    registered(lab, 4, day=2)

    found = take_overview(lab.data.catalog)

    assert found.days == {date(2026, 5, 20): DayTotals(2, 15), date(2026, 5, 22): DayTotals(2, 7)}
    assert (found.recordings, found.bytes, found.participants, found.partial) == (4, 22, 2, 1)
    assert found.participants_per_recording == {0: 2, 2: 2}
    assert found.verification == {"sha256": 1, "size": 1, "unknown": 2}
    assert found.newest_registration == datetime(2026, 6, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("rows_at_once", [1, 65_536])
def test_a_family_counts_a_recording_once_however_many_workers_it_has(
    rows_at_once: int, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scan, "_BATCH_ROWS", rows_at_once)
    for number in (1, 2):
        recording_hash = registered(lab, number)
        for worker in ("a", "b"):
            lab.data.register_modality(
                recording_hash=recording_hash,
                modality="camera",
                worker_id=worker,
                format="raw_video",
                segment_count=3,
                bytes=100,
            )
    lab.data.register_modality(recording_hash=f"{1:064x}", modality="eeg", format="raw_binary", bytes=1_000)

    found = take_overview(lab.data.catalog)

    assert list(found.families.items()) == [("eeg", FamilyTotals(1, 0, 1_000)), ("camera", FamilyTotals(2, 12, 400))]
    assert found.segments == 12


@pytest.mark.parametrize("odd", ["10", -4, 1.5, None, [1], {"a": 1}, 10**30])
def test_metadata_that_others_wrote_does_no_harm(odd: object, lab: Lab):
    registered(lab, 1, metadata={"bytes": odd, "nodes_missing": odd, "verification": odd, "registered_at": odd})

    found = take_overview(lab.data.catalog)

    assert (found.recordings, found.bytes) == (1, 0)


def test_an_ingested_recording_is_counted_without_its_participants_name(lab: Lab):
    files = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio"}
    result = lab.data.ingest(
        source_dir=write_recording(lab.nas, "rec_20260520_195628_b1dd", files, participant="Aria Lin")
    )

    found = take_overview(lab.data.catalog)

    metadata = result.recording.metadata or {}
    assert (found.recordings, found.bytes, found.segments) == (1, metadata["bytes"], 2)
    assert found.newest_registration == datetime.fromisoformat(metadata["registered_at"])
    assert found.verification == {"sha256": 1}
    assert "Aria" not in repr(found)


def test_a_sample_finds_the_rows_that_are_not_those_of_their_entries(lab: Lab):
    rows = [RecordingRow(recording_hash=f"{n:064x}", start_time=DAY, duration=timedelta(0)) for n in range(5)]
    lab.data.register_recordings(rows)
    assert compare_sample(lab.data.catalog).differing == ()
    lab.data.fold()
    key = f"{lab.data.catalog.prefix}/entries/00/{3:064x}.json"
    body, info = lab.assets.get(key)
    # As if its mark had been lost.
    lab.assets.replace(key, body + b"\n", info.etag)

    sampled = compare_sample(lab.data.catalog)

    assert (sampled.looked_at, sampled.differing) == (5, (f"{3:064x}",))


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (2e13, "20 TB"), (3e15, "3,000 TB")]
)
def test_sizes_are_told_in_a_unit_that_fits(size: float, told: str):
    assert told_bytes(size) == told
