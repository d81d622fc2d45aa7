"""Ends of recordings, derived anew from what their manifests state of the segments."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.maintenance.durations import apply_durations, derive_end, indeterminate, plan_durations
from ursa_pipelines.recordings.merge import MergedFile, MergedManifest
from ursa_pipelines.recordings.rows import RecordingRow

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
START = datetime(2026, 5, 20, 19, 56, 21, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
WRITER = Writer(by="operator@desk", run_id=None)


def recorded(lab: Lab, rec_id: str, *, torn_down: str | None = None, times: dict[str, Any] | None = None):
    """Ingests a recording of one minute whose manifest says that it ended at `torn_down`."""
    files = {"mic/seg_0000.wav": rec_id.encode()}
    manifest = manifest_of(rec_id, files)
    if torn_down:
        manifest["ended_at"] = torn_down
    if times is not None:
        for name in ("started_at", "ended_at"):
            manifest[name] = times.get(name)
            for file in manifest["files"]:
                file.pop(name)
    directory = write_recording(lab.nas, rec_id, files, manifest=manifest)
    row = lab.data.ingest(source_dir=directory).recording
    assert row is not None
    return row


def catalog_of(lab: Lab) -> Catalog:
    return Catalog.open(lab.assets)


def row_of(lab: Lab, rec_id: str) -> RecordingRow:
    (row,) = (one for one in lab.data.list_recordings() if one.rec_id == rec_id)
    return row


def test_an_end_that_only_a_teardown_reported_is_corrected_by_the_segments(lab: Lab):
    wrong = recorded(lab, FIRST, torn_down="2026-05-20T22:00:00Z")
    right = recorded(lab, SECOND)
    assert wrong.duration > HOUR
    before = lab.everything()

    fixes = plan_durations(lab.raw, catalog_of(lab))

    assert [(one.seen.rec_id, one.state, one.duration) for one in fixes] == [(FIRST, "fix", MINUTE)]
    assert lab.everything() == before
    assert [one.outcome for one in apply_durations(catalog_of(lab), fixes, WRITER)] == ["written"]
    fixed = row_of(lab, FIRST)
    assert (fixed.start_time, fixed.ended_at, fixed.duration) == (START, START + MINUTE, MINUTE)
    assert fixed.participant_ids == wrong.participant_ids
    assert fixed.device_info == wrong.device_info
    assert row_of(lab, SECOND) == right
    assert plan_durations(lab.raw, catalog_of(lab)) == []
    assert catalog_of(lab).entry(fixed.recording_hash).log[-1].op == "durations:overwrite"


def test_an_ingest_of_the_same_files_leaves_a_corrected_end_alone(lab: Lab):
    recorded(lab, FIRST, torn_down="2026-05-20T22:00:00Z")
    recorded(lab, SECOND, times={})
    fixes = plan_durations(lab.raw, catalog_of(lab))
    apply_durations(catalog_of(lab), fixes, WRITER, max_indeterminate=1)
    before = lab.everything()

    for rec_id in (FIRST, SECOND):
        assert lab.data.ingest(source_dir=lab.nas / rec_id).outcome == "unchanged"
        assert lab.data.ingest_from_r2(rec_id=rec_id).outcome == "unchanged"

    assert lab.everything() == before


def test_a_late_half_still_extends_a_corrected_recording(lab: Lab):
    recorded(lab, FIRST, torn_down="2026-05-20T20:30:00Z")
    apply_durations(catalog_of(lab), plan_durations(lab.raw, catalog_of(lab)), WRITER)
    files = {"eeg_1/seg_0000.bin": b"late"}
    late = manifest_of(FIRST, files, node="green-motor")
    for document in (late, *late["files"]):
        document["ended_at"] = "2026-05-20T21:00:00Z"
    directory = write_recording(
        lab.usb, FIRST, files | {"_node_manifests/green-motor.json": json.dumps(late).encode()}, manifest=False
    )

    assert lab.data.ingest(source_dir=directory).outcome == "changed"

    assert row_of(lab, FIRST).ended_at == datetime(2026, 5, 20, 21, tzinfo=UTC)
    assert {row.modality for row in lab.data.list_modalities()} == {"mic", "eeg"}


def test_small_differences_are_right_unless_asked_for(lab: Lab):
    recorded(lab, FIRST, torn_down="2026-05-20T19:57:51Z")

    assert plan_durations(lab.raw, catalog_of(lab)) == []
    (fix,) = plan_durations(lab.raw, catalog_of(lab), min_delta=timedelta(seconds=29))
    assert fix.duration == MINUTE


def test_a_row_without_a_derivable_end_is_flagged_and_loses_the_flag_when_one_is_known(lab: Lab):
    row = recorded(lab, FIRST, times={})
    assert (row.duration, row.ended_at) == (timedelta(0), None)
    fixes = plan_durations(lab.raw, catalog_of(lab))
    assert indeterminate(fixes) == fixes

    with pytest.raises(ValueError, match="1 rows have no derivable end; at most 0"):
        apply_durations(catalog_of(lab), fixes, WRITER)
    assert row_of(lab, FIRST) == row
    assert [one.outcome for one in apply_durations(catalog_of(lab), fixes, WRITER, max_indeterminate=1)] == ["written"]

    flagged = row_of(lab, FIRST)
    assert flagged.metadata == {**(row.metadata or {}), "duration_known_wrong": True}
    again = plan_durations(lab.raw, catalog_of(lab))
    assert [one.is_to_write for one in again] == [False]
    known = manifest_of(FIRST, {"mic/seg_0000.wav": FIRST.encode()}, node="other")
    lab.raw.create(f"recordings/{FIRST}/_node_manifests/other.json", json.dumps(known).encode())
    apply_durations(catalog_of(lab), plan_durations(lab.raw, catalog_of(lab)), WRITER)
    assert row_of(lab, FIRST).duration == MINUTE
    assert "duration_known_wrong" not in (row_of(lab, FIRST).metadata or {})


def test_a_right_row_loses_a_flag_that_it_should_not_have(lab: Lab):
    row = recorded(lab, FIRST)
    metadata = {**(row.metadata or {}), "duration_known_wrong": True}
    lab.data.register_recording(**row.model_dump() | {"metadata": metadata}, on_conflict="overwrite")

    fixes = plan_durations(lab.raw, catalog_of(lab))
    apply_durations(catalog_of(lab), fixes, WRITER)

    assert [one.state for one in fixes] == ["unflag"]
    assert row_of(lab, FIRST) == row


def test_a_row_that_was_changed_meanwhile_is_left_alone(lab: Lab):
    row = recorded(lab, FIRST, torn_down="2026-05-20T22:00:00Z")
    recorded(lab, SECOND, torn_down="2026-05-20T22:00:00Z")
    fixes = plan_durations(lab.raw, catalog_of(lab))
    lab.data.register_recording(**row.model_dump() | {"duration": 3 * HOUR, "ended_at": None}, on_conflict="overwrite")

    failed, written = apply_durations(catalog_of(lab), fixes, WRITER)

    assert (failed.rec_id, failed.outcome, written.outcome) == (FIRST, "failed", "written")
    assert "changed meanwhile" in failed.problem
    assert row_of(lab, FIRST).duration == 3 * HOUR


def test_a_damaged_manifest_and_one_that_is_gone_make_a_row_indeterminate(lab: Lab):
    recorded(lab, FIRST)
    lab.raw.create(f"recordings/{FIRST}/_node_manifests/bad.json", b"{")
    lab.data.register_recording(
        recording_hash="c" * 64, start_time=START, duration=HOUR, metadata={"manifest_recording_id": SECOND}
    )
    lab.data.register_recording(recording_hash="d" * 64, start_time=START, duration=HOUR)

    fixes = plan_durations(lab.raw, catalog_of(lab))

    told = {one.seen.rec_id: (one.state, one.problem) for one in fixes}
    assert told.keys() == {FIRST, SECOND}
    assert told[FIRST][0] == told[SECOND][0] == "indeterminate"
    assert "bad.json" in told[FIRST][1]
    assert "no usable manifest" in told[SECOND][1]


@pytest.mark.parametrize(
    ("segments", "torn_down", "derived"),
    [
        ([(0, 10)], 60, 10),
        ([(0, 10), (10, 25)], None, 25),
        ([(0, None)], 60, 60),
        ([(0, 10), (30, None)], 60, 60),
        ([(0, 10), (30, None)], None, None),
        ([(None, None)], None, None),
        ([(None, None)], 60, 60),
        ([(0, -5)], -1, None),
        ([(0, 0)], None, None),
    ],
)
def test_which_end_is_taken(segments: list[tuple[int | None, int | None]], torn_down: int | None, derived: int | None):
    def at(minutes: int | None) -> datetime | None:
        return None if minutes is None else START + minutes * MINUTE

    files = {
        f"mic/{index}": MergedFile(f"mic/{index}", 1, None, at(began), at(ended))
        for index, (began, ended) in enumerate(segments)
    }
    absent = MergedFile("eeg/0", 1, None, START, START + 9 * HOUR)
    merged = MergedManifest(FIRST, files | {"eeg/0": absent}, ended_at=at(torn_down))

    assert derive_end(merged, files, START) == at(derived)
