"""Runs that an arrival has launched are more careful than those of a person, who has seen the drive."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.orchestration.launch import launch, marks, materializations, shown_table
from tests.recordings_on_disk import write_recording
from ursa_pipelines.orchestration.partitions import arrival_asset
from ursa_pipelines.orchestration.states import Mark, read_histories
from ursa_pipelines.recordings.inventory import take_inventory

REC, OTHER = "rec_20260520_195621_b1dd", "rec_20260520_195622_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}


def arrive(instance: dg.DagsterInstance, source: str, rec_id: str, fingerprint: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(arrival_asset(source), partition=rec_id, tags={"dagster/data_version": fingerprint})
    )


def test_what_was_set_aside_since_it_arrived_is_passed_by(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (REC, OTHER):
        write_recording(lab.nas, rec_id, {**FILES, "notes/notes.jsonl": rec_id.encode()})
    instance.report_runless_asset_event(Mark(REC, "quarantined", "looks odd", by="somebody").observation())

    result = launch(lab.config, instance, REC, OTHER, by_arrival=True)

    assert result.success
    assert [len(materializations(instance, rec_id)) for rec_id in (REC, OTHER)] == [0, 1]
    assert "ursa retry" in str(shown_table(result)[REC]["reason"])
    assert [one["mark"] for one in marks(instance, REC)] == ["quarantined"]

    assert launch(lab.config, instance, REC).success
    assert not read_histories(instance)[REC].is_held
    lab.check_invariants()


def test_a_copy_on_another_drive_is_waited_for_until_it_has_settled(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, REC, FILES)
    half = write_recording(lab.usb, REC, {"eeg_4559/seg_0000.edf": b"\0" * 500}, manifest=False)
    arrive(instance, "nas", REC, take_inventory(lab.nas / REC).fingerprint)

    assert launch(lab.config, instance, REC, by_arrival=True).success

    assert lab.objects(REC) == {}
    (told,) = marks(instance, REC)
    assert (told["mark"], told["error"]) == ("waiting", "RecordingNotSettled")
    assert str(lab.usb) in told["reason"]

    arrive(instance, "usb", REC, take_inventory(half).fingerprint)
    assert launch(lab.config, instance, REC, by_arrival=True).success
    assert materializations(instance, REC)
    lab.check_invariants()


def test_a_drive_that_fails_does_not_hold_up_what_another_has(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, REC, FILES)
    (lab.usb / "README.txt").unlink()
    lab.usb.rmdir()
    lab.usb.symlink_to(lab.usb)

    assert launch(lab.config, instance, REC, OTHER, by_arrival=True).success is False

    assert materializations(instance, REC)
    (told,) = marks(instance, OTHER)
    assert (told["error"], told["retryable"]) == ("SourceUnavailable", True)


def test_the_beginning_of_an_upload_is_not_taken_for_a_whole_recording(
    lab: Lab, instance: dg.DagsterInstance, tmp_path: Path
):
    for rec_id in (REC, OTHER):
        files = {**FILES, "notes/notes.jsonl": rec_id.encode()}
        upload_as_rig(lab, write_recording(tmp_path / "rig", rec_id, files, manifest=False))
    arrive(instance, "usb", REC, "3-999-1")

    launch(lab.config, instance, REC, OTHER)

    (told,) = marks(instance, REC)
    assert (told["error"], told["retryable"]) == ("SourceUnavailable", True)
    assert "it was seen on usb" in told["reason"]
    assert "manifest.json" not in lab.objects(REC)
    assert materializations(instance, OTHER)
