"""What media files tell is in the rows of a recording that nothing else tells of, and in what is said of it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from tests import media_files
from tests.faults.mounts import Answer, Fault, Hangs, Mount, Upon
from tests.faults.on_a_drive import drive as drive
from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.media_files import BEGAN
from tests.recordings_on_disk import recording_hash_of, write_recording
from ursa_pipelines import DataInterface, failpoints
from ursa_pipelines.errors import MediaTruncated, SourceUnavailable
from ursa_pipelines.maintenance.durations import plan_durations
from ursa_pipelines.recordings.media_probe import MediaProbe

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": media_files.mp4(),
    "camera_a/seg_0001.mp4": media_files.mp4_index_last(),
    "mic/seg_0000.wav": media_files.wav(),
    "eeg_4559/seg_0000.edf": media_files.edf(),
    "notes/seg_0000.jsonl": b"{}\n",
}
CUT = {"camera_a/seg_0000.mp4": media_files.mp4_index_last()[:-100], "mic/seg_0000.wav": media_files.wav()[:-100]}
TWO_CLIPS = timedelta(seconds=4)


def with_media(lab: Lab, **settings: object) -> DataInterface:
    """The lab's profile as on a machine that has the extra, with these settings."""
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= {"media_probe": True, **settings}
    config = lab.config.with_name("with_media.yaml")
    config.write_text(yaml.safe_dump(profile))
    data = DataInterface(config_path=config)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    return data


def test_a_recording_without_a_manifest_is_as_long_as_its_media(lab: Lab):
    data = with_media(lab)
    directory = write_recording(lab.nas, REC, FILES, manifest=False)

    row = data.ingest(source_dir=directory).recording

    assert row is not None
    assert (row.start_time, row.duration, row.ended_at) == (BEGAN, TWO_CLIPS, BEGAN + TWO_CLIPS)
    assert row.recording_hash == recording_hash_of(FILES)
    assert "media_problems" not in (row.metadata or {})
    manifest = json.loads(stored(lab, REC, "manifest.json"))
    assert (manifest["started_at"], manifest["ended_at"]) == ("2026-05-20T19:56:28Z", "2026-05-20T19:56:32Z")
    assert manifest["reconstruction"]["ended_at_source"] == "media"
    assert all("ended_at" not in file for file in manifest["files"])
    assert plan_durations(lab.raw, lab.data.catalog) == []
    before = lab.everything()
    assert data.ingest(source_dir=directory).outcome == "unchanged"
    assert lab.everything() == before
    lab.check_invariants()
    data.close()


@pytest.mark.parametrize("first_has_it", [True, False])
def test_machines_with_and_without_the_extra_agree(lab: Lab, first_has_it: bool):
    machines = [with_media(lab), lab.data]
    first, second = machines if first_has_it else reversed(machines)
    directory = write_recording(lab.nas, REC, FILES | CUT, manifest=False)

    told = first.ingest(source_dir=directory).recording
    before = lab.everything()

    assert second.ingest(source_dir=directory).outcome == "unchanged"
    assert lab.everything() == before
    assert told == lab.data.list_recordings()[0]
    machines[0].close()


def test_a_recording_in_the_bucket_is_as_long_as_its_media(lab: Lab):
    data = with_media(lab)
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))

    manifest = data.reconstruct_manifest(rec_id=REC)

    assert manifest is not None
    assert manifest.reconstruction is not None
    assert (manifest.ended_at, manifest.reconstruction.ended_at_source) == (BEGAN + TWO_CLIPS, "media")
    row = lab.data.ingest_from_r2(rec_id=REC).recording
    assert row is not None
    assert row.duration == TWO_CLIPS
    data.close()


def test_of_large_objects_begin_and_end_are_enough_if_the_index_is_there(lab: Lab):
    data = with_media(lab)
    paths = {
        # The index lies at the end, and the sound's length in its header.
        "camera_a/seg_0000.mp4": media_files.with_more_data(media_files.mp4_index_last(), 4_000_000),
        "mic/seg_0000.wav": media_files.wav() + bytes(1_000_000),
    }
    upload_as_rig(lab, write_recording(lab.nas, REC, paths, manifest=False))
    # Where the fragments that tell of it lie between begin and end, nothing is said.
    other, fragmented = "rec_20260520_195628_b1de", media_files.with_a_gap(media_files.mp4_fragmented(), 4_000_000)
    upload_as_rig(lab, write_recording(lab.nas, other, {"camera_a/seg_0000.mp4": fragmented}, manifest=False))

    known, unknown = data.reconstruct_manifest(rec_id=REC), data.reconstruct_manifest(rec_id=other)

    assert known is not None
    assert unknown is not None
    assert (known.ended_at, unknown.ended_at) == (BEGAN + timedelta(seconds=2), None)
    data.close()


def test_what_a_manifest_says_counts_more_than_the_media(lab: Lab):
    data = with_media(lab)

    row = data.ingest(source_dir=write_recording(lab.nas, REC, FILES)).recording

    assert row is not None
    assert row.duration == timedelta(minutes=1)
    data.close()


def test_a_file_that_is_cut_off_is_ingested_and_told_of(lab: Lab, caplog: pytest.LogCaptureFixture):
    data = with_media(lab)
    with caplog.at_level(logging.WARNING):
        result = data.ingest(source_dir=write_recording(lab.nas, REC, FILES | CUT, manifest=False))

    assert (result.outcome, result.files_uploaded) == ("created", len(FILES))
    assert result.recording is not None
    assert (result.recording.metadata or {})["media_problems"] == {
        "camera_a/seg_0000.mp4": "truncated: 100 bytes are missing at its end",
        "mic/seg_0000.wav": "truncated: 100 bytes are missing at its end",
    }
    assert f"{REC}: ingested as it is" in caplog.text
    assert "mic/seg_0000.wav" in caplog.text
    lab.check_invariants()
    data.close()


def test_a_half_that_comes_later_leaves_what_was_told_of_the_first(lab: Lab):
    data = with_media(lab)
    cut = {"mic/seg_0000.wav": CUT["mic/seg_0000.wav"]}
    data.ingest(source_dir=write_recording(lab.nas, REC, cut, manifest={"nodes": ["green-mantis", "green-motor"]}))
    no_video = {"camera_a/seg_0000.mp4": b"video" * 100}

    result = data.ingest(source_dir=write_recording(lab.usb, REC, no_video, node="green-motor"))

    assert result.recording is not None
    assert set((result.recording.metadata or {})["media_problems"]) == {*cut, *no_video}
    data.close()


def test_a_profile_may_refuse_what_is_cut_off(lab: Lab):
    data = with_media(lab, truncated="refuse")
    directory = write_recording(lab.nas, REC, FILES | CUT)
    before = lab.everything()

    with pytest.raises(MediaTruncated) as refused:
        data.ingest(source_dir=directory)

    assert lab.everything() == before
    assert all(text in str(refused.value) for text in (REC, *CUT, "truncated: report"))
    # What merely cannot be read is not cut off.
    for path in CUT:
        (directory / path).unlink()
    write_recording(lab.nas, REC, dict.fromkeys(CUT, b"video" * 100) | {"eeg_4559/seg_0000.edf": media_files.edf()})
    assert data.ingest(source_dir=directory, allow_partial=True).outcome == "created"
    data.close()


def test_what_is_proved_in_the_bucket_is_not_looked_at_again(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    data, strict = with_media(lab), with_media(lab, truncated="refuse")
    directory = write_recording(lab.nas, REC, FILES | CUT)
    data.ingest(source_dir=directory)
    monkeypatch.setattr(MediaProbe, "report", None)

    assert strict.ingest(source_dir=directory).outcome == "unchanged"
    data.close()
    strict.close()


def test_what_an_interrupted_ingest_has_sent_is_told_of_when_it_is_resumed(lab: Lab):
    data, strict = with_media(lab), with_media(lab, truncated="refuse")
    directory = write_recording(lab.nas, REC, FILES | CUT)
    for path, content in CUT.items():
        lab.raw.create(f"recordings/{REC}/{path}", content)

    with pytest.raises(MediaTruncated):
        strict.ingest(source_dir=directory)
    row = data.ingest(source_dir=directory).recording

    assert row is not None
    assert set((row.metadata or {})["media_problems"]) == set(CUT)
    data.close()
    strict.close()


HALVES = {
    "nas": {"eeg_4559/seg_0000.edf": FILES["eeg_4559/seg_0000.edf"]},
    "usb": {f"camera_a/seg_000{index}.mp4": FILES[f"camera_a/seg_000{index}.mp4"] for index in (0, 1)},
}


@pytest.mark.parametrize("order", [("nas", "usb"), ("usb", "nas")])
def test_halves_without_a_manifest_come_to_the_same_length_in_either_order(lab: Lab, order: tuple[str, str]):
    data = with_media(lab)
    directories = [write_recording(getattr(lab, half), REC, HALVES[half], manifest=False) for half in order]

    for directory in directories:
        row = data.ingest(source_dir=directory).recording

    assert row is not None
    assert (row.start_time, row.duration, row.ended_at) == (BEGAN, TWO_CLIPS, BEGAN + TWO_CLIPS)
    before = lab.everything()
    assert [data.ingest(source_dir=directory).outcome for directory in directories] == ["unchanged", "unchanged"]
    assert lab.everything() == before
    data.close()


def test_a_recording_that_has_grown_is_as_long_as_all_of_its_media(lab: Lab):
    data = with_media(lab)
    first, *more = HALVES["usb"]
    data.ingest(source_dir=write_recording(lab.nas, REC, {first: HALVES["usb"][first]}, manifest=False))

    result = data.ingest(source_dir=write_recording(lab.nas, REC, HALVES["usb"], manifest=False))

    assert result.recording is not None
    assert (result.outcome, result.files_uploaded, result.recording.duration) == ("changed", len(more), TWO_CLIPS)
    data.close()


def test_what_comes_to_a_rigs_manifest_does_not_change_its_end(lab: Lab):
    data = with_media(lab)
    files = [
        {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in HALVES["nas"].items()
    ]
    ended_early = {"ended_at": "2026-05-20T19:56:29Z", "files": files}
    data.ingest(source_dir=write_recording(lab.nas, REC, HALVES["nas"], manifest=ended_early))

    row = data.ingest(source_dir=write_recording(lab.nas, REC, HALVES["usb"], manifest=False)).recording

    assert row is not None
    assert row.duration == timedelta(seconds=1)
    data.close()


def test_machines_with_and_without_the_extra_agree_if_they_come_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    data, came = with_media(lab), list[str | None]()
    directory = write_recording(lab.nas, REC, FILES, manifest=False)

    def reached(name: str) -> None:
        if name == "ingest.manifest_made" and not came:
            came.append(None)
            came[0] = lab.data.ingest(source_dir=directory).outcome

    monkeypatch.setattr(failpoints, "reached", reached)
    row = data.ingest(source_dir=directory).recording

    assert row is not None
    assert (came, row.duration) == (["created"], TWO_CLIPS)
    before = lab.everything()
    assert [one.ingest(source_dir=directory).outcome for one in (data, lab.data)] == ["unchanged", "unchanged"]
    assert lab.everything() == before
    data.close()


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "hangs"])
def test_a_drive_that_does_not_answer_is_not_blamed_on_the_file(lab: Lab, drive: Mount, fails: bool):
    path = f"{REC}/mic/seg_0000.wav"
    write_recording(lab.nas, REC, FILES, manifest=False)
    drive.fault = fault = Upon("read", path, lambda: Answer(error=errno.EIO), times=9) if fails else Hangs(path)
    data = with_media(lab, read_timeout=2)

    with pytest.raises(SourceUnavailable):
        data.ingest(source_dir=drive.point / REC)

    if isinstance(fault, Hangs):
        fault.released.set()
    drive.fault = Fault()
    row = data.ingest(source_dir=drive.point / REC).recording
    assert row is not None
    assert "media_problems" not in (row.metadata or {})
    data.close()


def test_an_interface_that_is_closed_leaves_no_reader(lab: Lab, tmp_path: Path):
    data = with_media(lab)
    data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    probe = data.ingest_context().media
    assert probe is not None
    assert probe.pids

    data.close()

    assert probe.pids == []
