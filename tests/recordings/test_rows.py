"""From the union of a recording's manifests to the rows of the catalog."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.merge import MergedFile, MergedManifest
from ursa_pipelines.recordings.rows import (
    IngestionStatus,
    ModalityRow,
    RecordingRow,
    Rows,
    StorageFormat,
    infer_format,
    rows_of_recording,
)

REC = "rec_20260520_195628_b1dd"
HASH = "0123456789abcdef" * 4
BEGAN = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
RAW = StorageFormat


def at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def merged_of(*files: MergedFile, **fields: Any) -> MergedManifest:
    return MergedManifest(REC, {file.path: file for file in files}, **fields)


def rows_of(merged: MergedManifest, *names: str, present: list[str] | None = None, **bookkeeping: Any) -> Rows:
    return rows_of_recording(
        merged,
        recording_hash=HASH,
        present=merged.files if present is None else present,
        display_names=names,
        uri_of_worker=lambda worker: f"r2://constellation-data/recordings/{REC}/{worker}/",
        bookkeeping=bookkeeping,
    )


CAMERA = MergedFile("camera_a/seg_0000.mp4", 100, node="green-mantis")
CAMERA_MORE = MergedFile("camera_a/seg_0001.mp4", 50, node="green-mantis")
EEG = MergedFile("eeg_4559/seg_0000.edf", 7, node="green-motor")
MIC = MergedFile("mic/seg_0000.wav", 3, node="green-mantis")
WHOLE = merged_of(
    CAMERA,
    CAMERA_MORE,
    EEG,
    MIC,
    started_at=at(0),
    ended_at=at(30),
    nodes=("green-mantis", "green-motor"),
    device_info={"green-mantis": {"rig": "green"}},
)


def test_a_recording_becomes_its_row() -> None:
    row = rows_of(WHOLE, "Aria Lin", verification="sha256").recording
    assert row.recording_hash == HASH
    assert row.rec_id == REC
    assert (row.start_time, row.ended_at, row.duration) == (at(0), at(30), timedelta(minutes=30))
    assert row.device_info == {"green-mantis": {"rig": "green"}}
    assert row.participant_ids == [derive_participant_id("Aria Lin")]
    assert row.metadata == {
        "manifest_recording_id": REC,
        "files": 4,
        "bytes": 160,
        "nodes": ["green-mantis", "green-motor"],
        "nodes_missing": [],
        "verification": "sha256",
    }


def test_each_worker_becomes_a_modality_row() -> None:
    rows = rows_of(WHOLE).modalities
    assert [(row.modality, row.worker_id, row.format, row.segment_count, row.bytes) for row in rows] == [
        ("camera", "a", RAW.RAW_VIDEO, 2, 150),
        ("eeg", "4559", RAW.RAW_BINARY, 1, 7),
        ("mic", None, RAW.RAW_AUDIO, 1, 3),
    ]
    for row, worker in zip(rows, ("camera_a", "eeg_4559", "mic"), strict=True):
        assert row.raw_storage_uri == f"r2://constellation-data/recordings/{REC}/{worker}/"
        assert (row.storage_uri, row.ingestion_status, row.recording_hash) == (None, IngestionStatus.RAW, HASH)
    assert rows[0].primary_key == (("recording_hash", HASH), ("modality", "camera"), ("worker_id", "a"))


@pytest.mark.parametrize(
    ("worker", "modality", "worker_id"),
    [("eeg_4559", "eeg", "4559"), ("camera_a_b", "camera", "a_b"), ("mic", "mic", None), ("eeg_", "eeg_", None)],
)
def test_a_worker_is_split_into_modality_and_worker_id(worker: str, modality: str, worker_id: str | None) -> None:
    (row,) = rows_of(merged_of(MergedFile(f"{worker}/deep/er/x.bin", 1))).modalities
    assert (row.modality, row.worker_id) == (modality, worker_id)


def test_two_workers_of_a_family_are_two_rows() -> None:
    rows = rows_of(merged_of(MergedFile("eeg_a/x", 1), MergedFile("eeg_b/x", 2), MergedFile("eeg/x", 3))).modalities
    assert sorted((row.modality, row.worker_id or "") for row in rows) == [("eeg", ""), ("eeg", "a"), ("eeg", "b")]


def test_one_worker_of_two_nodes_is_one_row_that_names_both() -> None:
    (row,) = rows_of(merged_of(MIC, MergedFile("mic/motor.wav", 4, node="green-motor"))).modalities
    assert row.metadata == {"nodes": ["green-mantis", "green-motor"]}
    assert (row.segment_count, row.bytes) == (2, 7)


def test_a_file_at_the_root_belongs_to_no_modality_but_to_the_recording() -> None:
    rows = rows_of(merged_of(MergedFile("README.md", 5), MIC))
    assert [row.modality for row in rows.modalities] == ["mic"]
    assert rows.recording.metadata is not None
    assert (rows.recording.metadata["files"], rows.recording.metadata["bytes"]) == (2, 8)


def test_the_longest_worker_name_that_a_path_may_have_becomes_a_row() -> None:
    (row,) = rows_of(merged_of(MergedFile(f"{'w' * 900}/x", 1))).modalities
    assert row.modality == "w" * 900


def test_fault_47_a_half_has_the_rows_of_what_is_there_and_names_the_missing_node() -> None:
    rows = rows_of(WHOLE, present=[CAMERA.path, CAMERA_MORE.path, MIC.path])
    assert [row.modality for row in rows.modalities] == ["camera", "mic"]
    assert rows.recording.metadata is not None
    assert rows.recording.metadata["nodes"] == ["green-mantis"]
    assert rows.recording.metadata["nodes_missing"] == ["green-motor"]
    assert rows.recording.metadata["bytes"] == 153


def test_rows_do_not_depend_on_the_order_of_files_or_names() -> None:
    backwards = replace(WHOLE, files=dict(reversed(WHOLE.files.items())))
    assert rows_of(backwards, "B", "A", present=list(backwards.files)) == rows_of(WHOLE, "A", "B")


FORMATS = {
    "camera": RAW.RAW_VIDEO,
    "screen": RAW.RAW_VIDEO,
    "pupillabs": RAW.RAW_VIDEO,
    "mic": RAW.RAW_AUDIO,
    "eeg": RAW.RAW_BINARY,
    "samsung-watch": RAW.RAW_JSONL,
    "battery": RAW.RAW_JSONL,
    "browser": RAW.RAW_JSONL,
    "keyboard": RAW.RAW_JSONL,
    "mouse": RAW.RAW_JSONL,
    "location": RAW.RAW_JSONL,
    "notes": RAW.RAW_JSONL,
}


@pytest.mark.parametrize(("family", "expected"), FORMATS.items())
def test_a_known_family_has_its_format_whatever_its_files_are_called(family: str, expected: StorageFormat) -> None:
    other = "x.mp4" if expected is not RAW.RAW_VIDEO else "x.jsonl"
    assert infer_format(family, [f"{family}/{other}"]) == (expected, None)
    assert infer_format(f"{family}-2", []) == (expected, None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x.mp4"], RAW.RAW_VIDEO),
        (["x.MOV"], RAW.RAW_VIDEO),
        (["x.mkv"], RAW.RAW_VIDEO),
        (["x.wav"], RAW.RAW_AUDIO),
        (["x.flac"], RAW.RAW_AUDIO),
        (["x.jsonl"], RAW.RAW_JSONL),
        (["a.jsonl", "b.jsonl", "c.mp4"], RAW.RAW_JSONL),
        (["a.log", "b.log", "c.wav"], RAW.RAW_AUDIO),
        (["x.tar.jsonl"], RAW.RAW_JSONL),
    ],
)
def test_an_unknown_family_has_the_format_of_most_of_its_files(names: list[str], expected: StorageFormat) -> None:
    assert infer_format("lidar", [f"lidar/{name}" for name in names]) == (expected, None)


@pytest.mark.parametrize("names", [["x.bin"], ["x"], [".mp4"], []], ids=str)
def test_an_unknown_family_of_unknown_files_is_binary_with_a_warning(names: list[str]) -> None:
    storage_format, warning = infer_format("lidar", [f"lidar/{name}" for name in names])
    assert storage_format is RAW.RAW_BINARY
    assert warning is not None
    assert "lidar" in warning


def test_the_warning_is_kept_in_the_row() -> None:
    (row,) = rows_of(merged_of(MergedFile("lidar_1/x.bin", 1))).modalities
    assert row.format is RAW.RAW_BINARY
    assert row.metadata is not None
    assert "lidar" in row.metadata["format_warning"]


def test_fault_81_only_the_participants_row_holds_the_name() -> None:
    rows = rows_of(WHOLE, "Aria Lin")
    (participant,) = rows.participants
    assert participant.metadata == {"display_name": "Aria Lin"}
    assert participant.participant_id == rows.recording.participant_ids[0]
    assert participant.enrolled_at == rows.recording.start_time
    for row in (rows.recording, *rows.modalities):
        assert "aria" not in row.model_dump_json().casefold()
    assert "aria" not in participant.participant_id


def test_no_name_makes_no_participant() -> None:
    rows = rows_of(WHOLE)
    assert rows.participants == ()
    assert rows.recording.participant_ids == []


def test_several_participants_are_all_there_in_a_fixed_order() -> None:
    names = ["Aria Lin", "Bj\u00f6rn Ek", "Chi"]
    rows = rows_of(WHOLE, *names)
    assert rows.recording.participant_ids == sorted(map(derive_participant_id, names))
    assert [row.participant_id for row in rows.participants] == rows.recording.participant_ids


@pytest.mark.parametrize("names", [("Aria Lin", "aria  lin"), ("aria  lin", "Aria Lin")])
def test_two_spellings_of_a_name_are_one_participant(names: tuple[str, str]) -> None:
    rows = rows_of(WHOLE, *names)
    assert rows.recording.participant_ids == [derive_participant_id("Aria Lin")]
    assert [row.metadata for row in rows.participants] == [{"display_name": "Aria Lin"}]


def segment(path: str, start: float | None = None, end: float | None = None) -> MergedFile:
    times = (None if start is None else at(start), None if end is None else at(end))
    return MergedFile(path, 1, started_at=times[0], ended_at=times[1])


STATED = {"started_at": at(1), "ended_at": at(9)}


@pytest.mark.parametrize(
    ("merged", "start", "end"),
    [
        pytest.param(merged_of(MIC, **STATED), 1, 9, id="the manifests say both"),
        pytest.param(merged_of(segment("mic/x", 2, 8), **STATED), 1, 9, id="the manifests span the segments"),
        pytest.param(merged_of(segment("mic/x", 2, 12), **STATED), 1, 12, id="a segment ends later"),
        pytest.param(merged_of(segment("mic/x", 5, 6), segment("mic/y", 3, 4)), 3, 6, id="only the segments say"),
        pytest.param(merged_of(segment("mic/x", 5), segment("mic/y")), 5, None, id="no end"),
        pytest.param(merged_of(segment("mic/x", None, 7)), 0, 7, id="no start: the rec_id's"),
        pytest.param(merged_of(MIC), 0, None, id="nobody says: the rec_id's"),
        pytest.param(merged_of(MIC, ended_at=at(4)), 0, 4, id="the manifests say the end"),
    ],
)
def test_start_and_end_are_what_is_best_known(merged: MergedManifest, start: float, end: float | None) -> None:
    row = rows_of(merged).recording
    assert row.start_time == at(start)
    assert row.ended_at == (None if end is None else at(end))
    assert row.duration == (timedelta(0) if end is None else timedelta(minutes=end - start))


def test_a_recording_that_ended_before_its_id_says_it_began_has_no_negative_duration() -> None:
    row = rows_of(merged_of(segment("mic/x", None, -5))).recording
    assert row.duration == timedelta(0)


def test_rows_are_equal_but_for_bookkeeping() -> None:
    one = rows_of(WHOLE, verification="size", registered_at="2026-06-01T00:00:00Z", ingested_from="nas").recording
    other = rows_of(WHOLE, verification="sha256", registered_by="aria").recording
    assert one != other
    assert one.comparable() == other.comparable()
    assert one.comparable()["metadata"] == {"manifest_recording_id": REC}
    assert rows_of(replace(WHOLE, ended_at=at(31))).recording.comparable() != one.comparable()
    assert rows_of(WHOLE, rig="green").recording.comparable() != one.comparable()


def test_a_row_survives_json_with_the_fields_that_it_does_not_know() -> None:
    row = rows_of(WHOLE, "Aria Lin").recording
    again = RecordingRow.model_validate_json(row.model_dump_json())
    assert again == row
    newer = RecordingRow.model_validate({**row.model_dump(), "channel_spec": {"rate": 250}})
    assert RecordingRow.model_validate_json(newer.model_dump_json()).model_dump()["channel_spec"] == {"rate": 250}


@pytest.mark.parametrize("field", [{"recording_hash": "a/b"}, {"recording_hash": ""}, {"recording_hash": f"{HASH}\n"}])
def test_a_row_has_a_key_that_is_safe_everywhere(field: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ModalityRow.model_validate({"recording_hash": HASH, "modality": "mic", "format": "raw_audio"} | field)


def test_a_catalog_id_has_at_most_200_characters() -> None:
    row = rows_of(WHOLE).recording.model_dump()
    assert RecordingRow.model_validate(row | {"recording_hash": "x" * 200}).recording_hash == "x" * 200
    with pytest.raises(ValidationError):
        RecordingRow.model_validate(row | {"recording_hash": "x" * 201})


def test_a_modality_registered_by_hand_counts_nothing_until_told() -> None:
    row = ModalityRow(recording_hash=HASH, modality="mic", format=RAW.RAW_AUDIO)
    assert (row.segment_count, row.bytes, row.ingestion_status) == (0, 0, IngestionStatus.RAW)
    assert row.model_copy(update={"worker_id": "a"}).primary_key[2] == ("worker_id", "a")
    for wrong in ({"segment_count": -1}, {"bytes": -1}, {"modality": ""}, {"format": "mp3"}):
        with pytest.raises(ValidationError):
            ModalityRow.model_validate(row.model_dump() | wrong)


def test_a_row_has_times_with_a_zone_and_no_negative_duration() -> None:
    row = rows_of(WHOLE).recording.model_dump()
    for wrong in ({"start_time": datetime(2026, 5, 20)}, {"duration": timedelta(seconds=-1)}):
        with pytest.raises(ValidationError):
            RecordingRow.model_validate(row | wrong)
