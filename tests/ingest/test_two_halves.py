"""Dual-node sessions: two hosts each hold half of a recording, and either may come first, or both at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.detour import Detour
from tests.faults.proxy import Fault, Meet
from tests.ingest.rig import stored
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.errors import RecordingConflict, RecordingIncomplete
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.identity import derive_participant_id

REC = "rec_20260520_195628_b1dd"
HOST, MOTOR = "green-mantis", "green-motor"
HOST_FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/host_0000.wav": b"audio" * 10}
MOTOR_FILES = {"eeg_4559/seg_0000.edf": b"eeg" * 50, "mic/motor_0000.wav": b"audio at the motor"}
PARTICIPANTS = {HOST: "Aria Lin", MOTOR: "Bo Kim"}
MOTOR_TIMES = {"started_at": "2026-05-20T19:56:20Z", "ended_at": "2026-05-20T20:10:00Z"}


@dataclass(frozen=True)
class Halves:
    """Two directories of one recording; `files` are the segments of both."""

    host: Path
    motor: Path
    files: dict[str, bytes]


def own_manifests(lab: Lab, **stated: str) -> Halves:
    """Each half has a manifest.json that lists only its own files, and no word of the other."""
    return Halves(
        write_recording(lab.nas, REC, HOST_FILES, node=HOST, manifest=stated or True, participant=PARTICIPANTS[HOST]),
        write_recording(
            lab.usb, REC, MOTOR_FILES, node=MOTOR, manifest=MOTOR_TIMES | stated, participant=PARTICIPANTS[MOTOR]
        ),
        HOST_FILES | MOTOR_FILES,
    )


def own_manifests_with_a_stated_hash(lab: Lab) -> Halves:
    """The same, but both state the recording_hash that the hosts agreed on."""
    return own_manifests(lab, recording_hash=recording_hash_of(HOST_FILES | MOTOR_FILES))


def node_manifests_of_both(lab: Lab) -> Halves:
    """Each half holds the node manifests of both hosts."""
    documents = {
        HOST: manifest_of(REC, HOST_FILES, node=HOST),
        MOTOR: manifest_of(REC, MOTOR_FILES, node=MOTOR) | MOTOR_TIMES,
    }
    manifests = {f"_node_manifests/{node}.json": json.dumps(one).encode() for node, one in documents.items()}
    return Halves(
        write_recording(lab.nas, REC, HOST_FILES | manifests, manifest=False, participant=PARTICIPANTS[HOST]),
        write_recording(lab.usb, REC, MOTOR_FILES | manifests, manifest=False, participant=PARTICIPANTS[MOTOR]),
        HOST_FILES | MOTOR_FILES,
    )


def one_manifest_of_both(lab: Lab) -> Halves:
    """Both halves hold the same manifest.json, which lists all files and says which host has which worker."""
    host, motor = ({path: one for path, one in half.items() if "mic" not in path} for half in (HOST_FILES, MOTOR_FILES))
    document = manifest_of(REC, host | motor, node=None) | MOTOR_TIMES
    document["nodes"] = {HOST: ["camera_a"], MOTOR: ["eeg_4559"]}
    return Halves(
        write_recording(lab.nas, REC, host, manifest=document, node=None, participant=PARTICIPANTS[HOST]),
        write_recording(lab.usb, REC, motor, manifest=document, node=None, participant=PARTICIPANTS[MOTOR]),
        host | motor,
    )


Shape = Callable[[Lab], Halves]
SHAPES: list[Shape] = [
    own_manifests,
    own_manifests_with_a_stated_hash,
    node_manifests_of_both,
    one_manifest_of_both,
]
SHAPES_THAT_TELL_OF_BOTH: list[Shape] = [node_manifests_of_both, one_manifest_of_both]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("order", [(HOST, MOTOR), (MOTOR, HOST)], ids=["host first", "motor first"])
def test_either_half_may_come_first(lab: Lab, shape: Shape, order: tuple[str, str]):
    halves = shape(lab)
    directories = {HOST: halves.host, MOTOR: halves.motor}

    lab.data.ingest(source_dir=directories[order[0]])
    lab.check_invariants()
    late = lab.interface().ingest(source_dir=directories[order[1]])

    assert late.outcome == "changed"
    _check_whole(lab, halves)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_both_halves_may_come_at_once(lab: Lab, detour: Detour, shape: Shape):
    halves = shape(lab)
    # Neither has sent anything before both have looked at the bucket.
    detour.proxy.fault = Meet(r"PUT /raw.*/camera_a/seg_0000", r"PUT /raw.*/eeg_4559/seg_0000")

    processes = [detour.start_ingest(directory) for directory in (halves.host, halves.motor)]

    told = [process.communicate(timeout=60)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    detour.proxy.fault = Fault()
    _check_whole(lab, halves)


@pytest.mark.parametrize("first", [HOST, MOTOR])
def test_where_no_hash_is_stated_the_first_halfs_stays(lab: Lab, first: str):
    halves = own_manifests(lab)
    order = [halves.host, halves.motor] if first == HOST else [halves.motor, halves.host]

    results = [lab.interface().ingest(source_dir=directory) for directory in order]

    expected = recording_hash_of(HOST_FILES if first == HOST else MOTOR_FILES)
    assert [result.recording.recording_hash for result in results if result.recording] == [expected, expected]


@pytest.mark.parametrize("shape", SHAPES_THAT_TELL_OF_BOTH, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("node", [HOST, MOTOR])
def test_the_missing_half_is_named_and_never_made_up(lab: Lab, shape: Shape, node: str):
    halves = shape(lab)
    directory, other = (halves.host, MOTOR) if node == HOST else (halves.motor, HOST)
    here = {path for path in halves.files if (directory / path).exists()}

    row = lab.data.ingest(source_dir=directory).recording

    assert row is not None
    assert row.metadata is not None
    assert (row.metadata["nodes"], row.metadata["nodes_missing"]) == ([node], [other])
    assert set(read_stored(lab.raw, REC).segments) == here
    assert {modality.modality for modality in lab.data.list_modalities()} == {
        path.partition("/")[0].partition("_")[0] for path in here
    }
    assert sum(modality.segment_count for modality in lab.data.list_modalities()) == len(here)
    assert list(lab.raw.list_objects("manifests/")) == []
    lab.check_invariants()


def test_a_half_that_tells_of_no_other_is_complete_and_its_marker_gains_the_others_files(lab: Lab):
    halves = own_manifests(lab)
    row = lab.data.ingest(source_dir=halves.host).recording

    assert row is not None
    assert row.metadata is not None
    assert (row.metadata["nodes"], row.metadata["nodes_missing"]) == ([HOST], [])
    assert _marker_files(lab) == set(HOST_FILES)

    lab.interface().ingest(source_dir=halves.motor)

    assert _marker_files(lab) == set(halves.files)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_ingesting_either_half_again_changes_nothing(lab: Lab, shape: Shape):
    halves = shape(lab)
    for directory in (halves.host, halves.motor):
        lab.interface().ingest(source_dir=directory)
    before = lab.everything()

    again = [lab.interface().ingest(source_dir=directory) for directory in (halves.host, halves.motor)]

    assert [result.outcome for result in again] == ["unchanged", "unchanged"]
    assert lab.everything() == before


def test_a_half_that_lacks_its_own_files_is_incomplete(lab: Lab):
    halves = node_manifests_of_both(lab)
    (halves.host / "camera_a" / "seg_0000.mp4").unlink()
    before = lab.everything()

    with pytest.raises(RecordingIncomplete, match=r"camera_a/seg_0000\.mp4"):
        lab.data.ingest(source_dir=halves.host)

    assert lab.everything() == before


def test_halves_that_list_other_bytes_under_one_path_are_a_conflict(lab: Lab):
    halves = own_manifests(lab)
    lab.data.ingest(source_dir=halves.host)
    before = lab.everything()
    write_recording(lab.usb, REC, {"camera_a/seg_0000.mp4": b"other" * 100}, node=MOTOR)

    with pytest.raises(RecordingConflict, match=r"camera_a/seg_0000\.mp4"):
        lab.data.ingest(source_dir=halves.motor)

    assert lab.everything() == before


def _check_whole(lab: Lab, halves: Halves) -> None:
    """The final state of a session whose two halves were ingested, in whatever order."""
    assert {path: stored(lab, REC, path) for path in read_stored(lab.raw, REC).segments} == halves.files
    on_disk = {
        path.read_bytes()
        for directory in (halves.host, halves.motor)
        for path in (directory / "manifest.json", *directory.glob("_node_manifests/*.json"))
        if path.exists()
    }
    assert {one.raw for one in read_stored(lab.raw, REC).manifests} == on_disk
    assert _marker_files(lab) == set(halves.files)

    (row,) = lab.data.list_recordings()
    assert row.start_time == datetime(2026, 5, 20, 19, 56, 20, tzinfo=UTC)
    assert row.ended_at == datetime(2026, 5, 20, 20, 10, tzinfo=UTC)
    assert row.duration == row.ended_at - row.start_time
    assert row.participant_ids == sorted(derive_participant_id(name) for name in PARTICIPANTS.values())
    assert row.metadata is not None
    assert (row.metadata["nodes"], row.metadata["nodes_missing"]) == ([HOST, MOTOR], [])
    assert (row.metadata["files"], row.metadata["bytes"]) == (
        len(halves.files),
        sum(len(content) for content in halves.files.values()),
    )
    if "mic/host_0000.wav" in halves.files:
        assert row.device_info == {HOST: {"rig": "green"}, MOTOR: {"rig": "green"}}
    found = {
        (one.modality, one.worker_id): (one.segment_count, one.bytes, (one.metadata or {})["nodes"])
        for one in lab.data.list_modalities()
    }
    expected: dict[tuple[str, str | None], tuple[int, int, list[str]]] = {
        ("camera", "a"): (1, 500, [HOST]),
        ("eeg", "4559"): (1, 150, [MOTOR]),
        ("mic", None): (2, 68, [HOST, MOTOR]),
    }
    if "mic/host_0000.wav" not in halves.files:
        del expected["mic", None]
    assert found == expected
    assert {((one.metadata or {})["display_name"], one.enrolled_at) for one in lab.data.list_participants()} == {
        (name, row.start_time) for name in PARTICIPANTS.values()
    }
    lab.check_invariants()


def _marker_files(lab: Lab) -> set[str]:
    return set(json.loads(lab.raw.get(f"manifests/{REC}/manifest.json")[0])["files"])
