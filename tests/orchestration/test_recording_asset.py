"""The asset `recording`, run as the UI and the sensors run it, on a real store (DESIGN section 8)."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.launch import failures, launch, launch_stored, materializations, shown_table, values, verdicts
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.embedded.store import open_store

GOOD, BAD, LATE, OTHER = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10, "eeg_4559/seg_0000.edf": b"eeg"}
NAME = "Zzyxa Quuxbane"
OVERWRITE = {"ops": {"recording": {"ops": {"discover": {"config": {"overwrite": True}}}}}}
WHOLE_BATCH = None


def files_of(rec_id: str) -> dict[str, bytes]:
    return {**FILES, "notes/notes.jsonl": rec_id.encode()}


def damage(directory: Path) -> None:
    """Gives a file other bytes of the same size, an hour ago."""
    (directory / "mic/seg_0000.wav").write_bytes(b"noise" * 10)
    write_recording(directory.parent, directory.name, {}, manifest=False)


def test_one_partition_needs_no_run_config(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME)

    result = launch(lab.config, instance, GOOD)

    assert result.success
    (event,) = materializations(instance, GOOD)
    recording_hash = recording_hash_of(files_of(GOOD))
    assert event.tags == {"dagster/data_version": recording_hash}
    told = values(event.metadata)
    size = sum(map(len, files_of(GOOD).values()))
    assert told.pop("seconds") > 0
    assert told.pop("MB/s") > 0
    assert told.pop("fingerprint")
    assert told == {
        "path": "A",
        "outcome": "created",
        "files": 4,
        "bytes": size,
        "files_uploaded": 4,
        "files_skipped": 0,
        "bytes_uploaded": size,
        "verification": "sha256",
        "nodes": "green-mantis",
        "nodes_missing": "",
        "recording_hash": recording_hash,
        "commit_marker": f"r2://{lab.raw.name}/manifests/{GOOD}/manifest.json",
        "dagster/uri": f"r2://{lab.raw.name}/recordings/{GOOD}/",
    }
    assert verdicts(result) == [(GOOD, True)]
    assert lab.data.get_recording(recording_hash).rec_id == GOOD
    lab.check_invariants()


def test_materializing_again_sends_nothing_and_says_so(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME)
    launch(lab.config, instance, GOOD)
    before = lab.everything()

    assert launch(lab.config, instance, GOOD).success

    newest, oldest = map(values, (event.metadata for event in materializations(instance, GOOD)))
    assert (newest["outcome"], newest["files_uploaded"], newest["bytes_uploaded"]) == ("unchanged", 0, 0)
    assert newest["recording_hash"] == oldest["recording_hash"]
    assert lab.everything() == before


def test_a_bad_recording_fails_the_run_and_alone_stays_unregistered(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD, OTHER):
        write_recording(lab.nas, rec_id, files_of(rec_id))
    damage(lab.nas / BAD)

    result = launch(lab.config, instance, GOOD, BAD, OTHER)

    assert not result.success
    ((step, reason),) = failures(result).items()
    assert step == "recording.report"
    assert BAD in reason
    assert "mic/seg_0000.wav" in reason
    assert "The copy is damaged" in reason
    assert GOOD not in reason
    assert OTHER not in reason
    assert [len(materializations(instance, rec_id)) for rec_id in (GOOD, BAD, OTHER)] == [1, 0, 1]
    assert verdicts(result) == [(GOOD, True), (OTHER, True), (WHOLE_BATCH, True)]
    assert {row.rec_id for row in lab.data.list_recordings()} == {GOOD, OTHER}
    lab.check_invariants()


def test_a_bad_recording_alone_has_no_passing_check(lab: Lab, instance: dg.DagsterInstance):
    damage(write_recording(lab.nas, BAD, files_of(BAD)))

    result = launch(lab.config, instance, BAD)

    assert not result.success
    assert verdicts(result) == []
    assert materializations(instance, BAD) == []


def test_a_recording_still_being_copied_waits_without_failing_the_run(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD))
    write_recording(lab.nas, LATE, {**files_of(LATE), "mic/seg_0001.wav.part": b"half"})

    result = launch(lab.config, instance, GOOD, LATE)

    assert result.success
    assert materializations(instance, LATE) == []
    assert lab.objects(LATE) == {}
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]
    late = shown_table(result)[LATE]
    assert late["status"] == "SKIP"
    assert "seg_0001.wav.part is still being copied" in str(late["reason"])


def test_two_halves_on_two_sources_become_one_recording(lab: Lab, instance: dg.DagsterInstance):
    host, eeg = {"camera_a/seg_0000.mp4": b"video"}, {"eeg_4559/seg_0000.edf": b"eeg"}
    for source, node, files in ((lab.nas, "green-mantis", host), (lab.usb, "green-motor", eeg)):
        manifest = manifest_of(GOOD, files, node=node)
        write_recording(source, GOOD, files, manifest=False)
        write_recording(source, GOOD, {f"_node_manifests/{node}.json": json.dumps(manifest).encode()}, manifest=False)

    assert launch(lab.config, instance, GOOD).success

    (event,) = materializations(instance, GOOD)
    told = values(event.metadata)
    assert (told["files"], told["nodes"], told["nodes_missing"]) == (2, "green-mantis, green-motor", "")
    (row,) = lab.data.list_recordings()
    assert {one.modality for one in lab.data.list_modalities({"recording_hash": row.recording_hash})} == {
        "camera",
        "eeg",
    }
    lab.check_invariants()


@pytest.mark.parametrize(("manifest", "path"), [(True, "B"), (False, "C+B")])
def test_a_recording_that_only_the_bucket_has_is_registered(
    manifest: bool, path: str, lab: Lab, instance: dg.DagsterInstance, tmp_path: Path
):
    directory = write_recording(tmp_path, GOOD, files_of(GOOD), manifest=manifest)
    for file in directory.rglob("*"):
        if file.is_file():
            lab.raw.create(f"recordings/{GOOD}/{file.relative_to(directory)}", file.read_bytes())

    result = launch(lab.config, instance, GOOD)

    assert result.success
    (event,) = materializations(instance, GOOD)
    told = values(event.metadata)
    assert (told["path"], told["files"], told["files_uploaded"]) == (path, 4, 0)
    assert verdicts(result) == [(GOOD, True)]
    lab.check_invariants()


def test_a_recording_that_is_nowhere_fails_by_name(lab: Lab, instance: dg.DagsterInstance):
    result = launch(lab.config, instance, GOOD)

    assert not result.success
    assert GOOD in failures(result)["recording.report"]
    assert "neither a source nor the bucket has it" in failures(result)["recording.report"]


def test_the_check_fails_for_a_recording_whose_object_is_missing_or_truncated(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD, OTHER):
        write_recording(lab.nas, rec_id, files_of(rec_id))
    run = launch_stored(lab.config, instance, GOOD, BAD, OTHER)
    assert verdicts(run) == [(GOOD, True), (BAD, True), (OTHER, True), (WHOLE_BATCH, True)]
    missing, truncated = (f"recordings/{rec_id}/mic/seg_0000.wav" for rec_id in (BAD, OTHER))
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=missing)
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=truncated, Body=b"audio")

    only_the_check = dg.ReexecutionOptions(run.run_id, step_selection=["recording.rows_and_objects_agree"])
    again = launch_stored(lab.config, instance, again=only_the_check)

    assert verdicts(again) == [(GOOD, True), (BAD, False), (OTHER, False), (WHOLE_BATCH, False)]


def test_overwrite_is_an_option_of_the_run(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD))
    launch(lab.config, instance, GOOD)
    (row,) = lab.data.list_recordings()
    longer = row.duration + timedelta(hours=1)
    lab.data.register_recording(
        **row.model_copy(update={"duration": longer, "ended_at": row.start_time + longer}).model_dump(
            include={"recording_hash", "start_time", "duration", "ended_at", "participant_ids", "metadata"}
        ),
        device_info={"rig": "blue"},
        on_conflict="overwrite",
    )
    raw_before = lab.objects(GOOD)

    refused = launch(lab.config, instance, GOOD)
    granted = launch(lab.config, instance, GOOD, run_config=OVERWRITE)

    assert not refused.success
    assert "overwrite=True" in failures(refused)["recording.report"]
    assert granted.success
    (event, _) = materializations(instance, GOOD)
    assert values(event.metadata)["outcome"] == "changed"
    assert lab.data.list_recordings()[0].comparable() == row.comparable()
    assert lab.objects(GOOD) == raw_before


def test_reexecution_from_failure_takes_the_mended_recording_again(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD):
        write_recording(lab.nas, rec_id, files_of(rec_id))
    damage(lab.nas / BAD)
    failed = launch_stored(lab.config, instance, GOOD, BAD)
    assert not failed.success
    write_recording(lab.nas, BAD, files_of(BAD))

    again = launch_stored(
        lab.config,
        instance,
        again=dg.ReexecutionOptions.from_failure(failed.run_id, instance),
    )

    assert again.success
    assert [len(materializations(instance, rec_id)) for rec_id in (GOOD, BAD)] == [1, 1]
    assert {row.rec_id for row in lab.data.list_recordings()} == {GOOD, BAD}
    lab.check_invariants()


def test_a_process_that_takes_over_in_the_middle_does_the_earlier_steps_again(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD), manifest=False)
    run = launch_stored(lab.config, instance, GOOD)
    for bucket in (lab.raw, lab.assets):
        for info in list(bucket.list_objects("")):
            if not info.key.startswith("ursa/BUCKET"):
                bucket.multipart_client.delete_object(Bucket=bucket.name, Key=info.key)

    again = launch_stored(
        lab.config, instance, again=dg.ReexecutionOptions(run.run_id, step_selection=["recording.upload+++"])
    )

    assert again.success
    newest = values(materializations(instance, GOOD)[0].metadata)
    assert (newest["path"], newest["outcome"], newest["files_uploaded"]) == ("C+A", "created", 4)
    assert verdicts(again) == [(GOOD, True)]
    lab.check_invariants()


def test_no_name_and_no_secret_reaches_what_dagster_stores(
    lab: Lab, store_state: Path, stored_instance: dg.DagsterInstance
):
    write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME, manifest={"participant": NAME})
    write_recording(lab.nas, BAD, files_of(BAD), participant=f"{NAME}\x07")
    write_recording(lab.nas, LATE, {**files_of(LATE), "session.lock": b""}, participant=NAME)
    write_recording(lab.nas, OTHER, files_of(OTHER), participant=NAME, manifest=False)

    result = launch_stored(lab.config, stored_instance, GOOD, BAD, LATE, OTHER)

    assert "participant" in failures(result)["recording.report"]
    assert [row.metadata["display_name"] for row in lab.data.list_participants() if row.metadata] == [NAME]
    kept = b"".join(path.read_bytes() for path in Path(stored_instance.root_directory).rglob("*") if path.is_file())
    assert GOOD.encode() in kept
    store = open_store(store_state)
    for hidden in (NAME, "Quuxbane", store.access_key_id, store.secret_access_key):
        assert hidden.encode() not in kept


def test_an_instance_that_serves_another_profile_is_refused(lab: Lab, stored_instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD))
    write_recording(lab.nas, OTHER, files_of(OTHER))
    assert launch(lab.config, stored_instance, GOOD).success
    other_profile = lab.config.with_name("other.yaml")
    other_profile.write_text(lab.config.read_text().replace("name: lab", "name: other"))
    before = lab.everything()

    result = launch(other_profile, stored_instance, OTHER)

    assert not result.success
    assert "serves the profile 'lab', not 'other'" in failures(result)["recording.discover"]
    assert lab.everything() == before
