"""Faults 44 to 51b: what a recording is taken for, told through whole ingests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.errors import (
    ManifestConflict,
    ManifestInvalid,
    RecordingConflict,
    RecordingIdInvalid,
    UrsaError,
)

REC, OTHER_REC = "rec_20260520_195628_b1dd", "rec_20260521_080000_c0de"
CAMERAS = {"camera_a/seg_0000.mp4": b"left" * 100, "camera_b/seg_0000.mp4": b"right" * 100}
SWAPPED = dict(zip(CAMERAS, reversed(CAMERAS.values()), strict=True))
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
HOST, MOTOR = "green-mantis", "green-motor"
HOST_FILES, MOTOR_FILES = {"camera_a/seg_0000.mp4": b"video" * 100}, {"eeg_4559/seg_0000.edf": b"eeg" * 50}


@pytest.mark.parametrize("rec_id", [REC, OTHER_REC], ids=["of the same recording", "under another id"])
def test_fault_44_files_whose_names_were_swapped_are_no_second_recording(lab: Lab, rec_id: str):
    assert recording_hash_of(CAMERAS) == recording_hash_of(SWAPPED)
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, CAMERAS))
    rows = _rows(lab)

    with pytest.raises(RecordingConflict):
        lab.interface().ingest(source_dir=write_recording(lab.usb, rec_id, SWAPPED))

    assert _rows(lab) == rows
    assert {path: stored(lab, REC, path) for path in CAMERAS} == CAMERAS
    lab.check_invariants()


def test_fault_44_a_copied_directory_with_the_old_manifest_is_refused(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, CAMERAS))
    copy = write_recording(lab.usb, OTHER_REC, CAMERAS, manifest=manifest_of(REC, CAMERAS))

    _check_refused(lab, copy, ManifestInvalid, REC)


@pytest.mark.parametrize("changed", ["camera_a/seg_0000.mp4", "camera_z/seg_0000.mp4"], ids=["same path", "new path"])
def test_fault_45_one_id_with_two_contents_is_a_conflict_and_neither_is_overwritten(lab: Lab, changed: str):
    first = write_recording(lab.nas, REC, FILES, stated_hash=True)
    lab.data.ingest(source_dir=first)
    rows, objects = _rows(lab), lab.objects(REC)
    other = {**{path: content for path, content in FILES.items() if path != changed}, changed: b"other" * 100}
    second = write_recording(lab.usb, REC, other, stated_hash=True)

    with pytest.raises((RecordingConflict, ManifestConflict)):
        lab.interface().ingest(source_dir=second)

    assert _rows(lab) == rows
    assert {path: etag for path, etag in lab.objects(REC).items() if path in objects} == objects
    assert (second / changed).read_bytes() == other[changed]
    lab.check_invariants()


def test_fault_46_one_content_under_two_ids_is_one_row(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    rows = _rows(lab)

    with pytest.raises(RecordingConflict, match=REC):
        lab.interface().ingest(source_dir=write_recording(lab.usb, OTHER_REC, FILES))

    assert _rows(lab) == rows
    assert lab.data.query(metadata={"manifest_recording_id": OTHER_REC}) == []
    lab.check_invariants()


@pytest.mark.parametrize("order", [(HOST, MOTOR), (MOTOR, HOST)], ids=["host first", "motor first"])
def test_fault_47_the_second_half_keeps_the_identity_that_the_first_has_made(lab: Lab, order: tuple[str, str]):
    files = {HOST: HOST_FILES, MOTOR: MOTOR_FILES}
    halves = {
        HOST: write_recording(lab.nas, REC, HOST_FILES, node=HOST, participant="Aria Lin"),
        MOTOR: write_recording(lab.usb, REC, MOTOR_FILES, node=MOTOR, participant="Bo Kim"),
    }

    told = [lab.interface().ingest(source_dir=halves[node]) for node in order]

    assert [one.outcome for one in told] == ["created", "changed"]
    (row,) = lab.data.list_recordings()
    assert row.recording_hash == recording_hash_of(files[order[0]])
    assert (row.metadata or {})["nodes"] == [HOST, MOTOR]
    assert {one.modality for one in lab.data.list_modalities()} == {"camera", "eeg"}
    before = lab.everything()
    assert [lab.interface().ingest(source_dir=halves[node]).outcome for node in order] == ["unchanged", "unchanged"]
    assert lab.everything() == before
    lab.check_invariants()


def test_fault_48_a_manifest_and_a_nodes_that_disagree_are_refused(lab: Lab):
    of_node = manifest_of(REC, {**FILES, "camera_a/seg_0000.mp4": b"other" * 100}, node=HOST)
    directory = write_recording(lab.nas, REC, FILES | {f"_node_manifests/{HOST}.json": json.dumps(of_node).encode()})

    _check_refused(lab, directory, ManifestConflict, "camera_a/seg_0000.mp4")


def test_fault_49_a_manifest_of_another_recording_is_refused(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest={"recording_id": OTHER_REC})

    _check_refused(lab, directory, ManifestInvalid, OTHER_REC)


@pytest.mark.parametrize(
    "rec_id",
    [f"{REC}\n", "rec_\u0662\u0660\u0662\u0666\u0660\u0665\u0662\u0660_195628_b1dd", REC.upper()],
    ids=["line break", "Arabic digits", "upper case"],
)
def test_fault_50_an_id_that_only_looks_like_one_is_refused(lab: Lab, rec_id: str):
    _check_refused(lab, write_recording(lab.nas, rec_id, FILES, manifest=False), RecordingIdInvalid, "recording id")
    named = write_recording(lab.usb, REC, FILES, manifest={"recording_id": rec_id})
    _check_refused(lab, named, ManifestInvalid, "recording_id")


@pytest.mark.parametrize(
    "reconstruct",
    [
        lambda lab, directory: lab.interface().reconstruct_manifest(rec_id=REC),
        lambda lab, directory: (directory / "manifest.json").unlink() or lab.interface().ingest(source_dir=directory),
    ],
    ids=["in the bucket", "from a directory"],
)
def test_fault_51_reconstructing_over_a_valid_manifest_does_nothing(lab: Lab, reconstruct: Callable[[Lab, Path], Any]):
    directory = write_recording(lab.nas, REC, FILES, stated_hash=True)
    lab.data.ingest(source_dir=directory)
    before = lab.everything()

    reconstruct(lab, directory)

    assert lab.everything() == before


def test_fault_51_a_manifest_that_comes_first_is_never_written_over(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, stated_hash=True))
    manifest = stored(lab, REC, "manifest.json")

    assert lab.data.reconstruct_manifest(rec_id=REC) is None

    assert stored(lab, REC, "manifest.json") == manifest


def test_fault_51b_a_row_says_whether_bytes_or_only_sizes_were_proved(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory)
    lab.data.ingest_from_r2(rec_id=REC)
    assert _level(lab) == "size"

    lab.interface().ingest(source_dir=directory)
    assert _level(lab) == "sha256"

    lab.interface().ingest_from_r2(rec_id=REC)
    assert _level(lab) == "sha256"


def _rows(lab: Lab) -> tuple[Any, ...]:
    data = lab.interface(writes=False)
    return data.list_recordings(), data.list_modalities(), data.list_participants()


def _level(lab: Lab) -> str:
    (row,) = lab.interface(writes=False).list_recordings()
    return (row.metadata or {})["verification"]


def _check_refused(lab: Lab, directory: Path, error: type[UrsaError], told: str) -> None:
    before = lab.everything()

    with pytest.raises(error) as caught:
        lab.interface().ingest(source_dir=directory)

    assert told in str(caught.value)
    assert lab.everything() == before
