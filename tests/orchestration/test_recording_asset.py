"""The asset `recording`, run as the UI and the sensors run it, on a real store (DESIGN section 8)."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.launch import (
    evaluations,
    failures,
    launch,
    launch_stored,
    marks,
    materializations,
    shown_table,
    values,
    verdicts,
)
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.orchestration import checks, telling
from ursa_pipelines.orchestration.states import Mark, read_histories

GOOD, BAD, LATE, OTHER = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10, "eeg_4559/seg_0000.edf": b"eeg"}
NAME = "Zzyxa Quuxbane"
OVERWRITE = {"ops": {"recording": {"config": {"overwrite": True}}}}
DRY_RUN = {"ops": {"recording": {"config": {"dry_run": True}}}}
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
        "recording_hash": recording_hash,
        "manifest": f"r2://{lab.raw.name}/recordings/{GOOD}/manifest.json",
        "commit_marker": f"r2://{lab.raw.name}/manifests/{GOOD}/manifest.json",
        "dagster/uri": f"r2://{lab.raw.name}/recordings/{GOOD}/",
    }
    assert verdicts(result) == {GOOD: set()}
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


def test_fault_8_a_bad_recording_fails_the_run_and_alone_stays_unregistered(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD, OTHER):
        write_recording(lab.nas, rec_id, files_of(rec_id), participant=NAME)
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
    (told,) = marks(instance, BAD)
    assert (told["mark"], told["error"], told["retryable"]) == ("failed", "ContentMismatch", False)
    assert "The copy is damaged" in told["reason"]
    assert result.run_id[:8] in told["by"]
    assert marks(instance, GOOD) == marks(instance, OTHER) == []
    assert "The copy is damaged" in told["what_to_do"]
    assert verdicts(result) == {WHOLE_BATCH: set(), GOOD: set(), OTHER: set(), BAD: set(checks.NAMES)}
    assert {row.rec_id for row in lab.data.list_recordings()} == {GOOD, OTHER}
    lab.check_invariants()


def test_a_bad_recording_alone_has_no_passing_check(lab: Lab, instance: dg.DagsterInstance):
    damage(write_recording(lab.nas, BAD, files_of(BAD)))

    result = launch(lab.config, instance, BAD)

    assert not result.success
    assert verdicts(result) == {BAD: set(checks.NAMES)}
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
    (told,) = marks(instance, LATE)
    assert (told["mark"], told["error"], told["retryable"]) == ("waiting", "RecordingNotSettled", True)
    assert "seg_0001.wav.part" in told["reason"]
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
    assert (told["files"], told["nodes"]) == (2, "green-mantis, green-motor")
    assert "nodes_missing" not in told
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
    assert verdicts(result) == {GOOD: {"participant_known"}}
    lab.check_invariants()


def test_a_recording_that_is_nowhere_fails_by_name(lab: Lab, instance: dg.DagsterInstance):
    result = launch(lab.config, instance, GOOD)

    assert not result.success
    assert GOOD in failures(result)["recording.report"]
    assert "neither a source nor the bucket has it" in failures(result)["recording.report"]


def test_the_check_fails_for_a_recording_whose_object_is_missing_or_truncated(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD, OTHER):
        write_recording(lab.nas, rec_id, files_of(rec_id), participant=NAME)
    run = launch_stored(lab.config, instance, GOOD, BAD, OTHER)
    assert verdicts(run) == {WHOLE_BATCH: set()}
    missing, truncated = (f"recordings/{rec_id}/mic/seg_0000.wav" for rec_id in (BAD, OTHER))
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=missing)
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=truncated, Body=b"audio")

    only_the_check = dg.ReexecutionOptions(run.run_id, step_selection=["recording.check"])
    again = launch_stored(lab.config, instance, again=only_the_check)

    wrong = {"objects_present", "rows_match_manifest"}
    assert verdicts(again) == {BAD: wrong, OTHER: wrong, WHOLE_BATCH: wrong}
    told = next(one for one in evaluations(again) if (one.partition, one.check_name) == (BAD, "objects_present"))
    assert told.severity == dg.AssetCheckSeverity.ERROR
    assert values(told.metadata)["problems"] == ["mic/seg_0000.wav is listed but not in the bucket"]
    assert "Materialize this partition again" in values(told.metadata)["what_to_do"]


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
    assert verdicts(again) == {BAD: {"participant_known"}}
    assert {rec_id: one["status"] for rec_id, one in shown_table(again).items()} == {GOOD: "OK", BAD: "OK"}
    assert read_histories(instance)[BAD].attempts == 0
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
    assert verdicts(again) == {GOOD: {"participant_known"}}
    lab.check_invariants()


def test_fault_87_what_ops_hand_on_is_pickled_without_a_name_or_a_secret(
    lab: Lab, store_state: Path, stored_instance: dg.DagsterInstance
):
    write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME, manifest={"participant": NAME})
    write_recording(lab.nas, BAD, files_of(BAD), participant=f"{NAME}\x07")
    write_recording(lab.nas, LATE, {**files_of(LATE), "session.lock": b""}, participant=NAME)
    write_recording(lab.nas, OTHER, files_of(OTHER), participant=NAME, manifest=False)

    result = launch_stored(lab.config, stored_instance, GOOD, BAD, LATE, OTHER)

    assert "participant" in failures(result)["recording.report"]
    assert [row.metadata["display_name"] for row in lab.data.list_participants() if row.metadata] == [NAME]
    files = [path for path in Path(stored_instance.root_directory).rglob("*") if path.is_file()]
    assert {"recording.discover", "recording.hash", "recording.upload"} <= {path.parent.name for path in files}
    kept = b"".join(path.read_bytes() for path in files)
    assert GOOD.encode() in kept
    store = open_store(store_state)
    for hidden in (NAME, "Quuxbane", store.access_key_id, store.secret_access_key):
        assert hidden.encode() not in kept


def test_reexecution_after_a_death_takes_what_failed_before_it_again(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (GOOD, BAD, LATE):
        write_recording(lab.nas, rec_id, files_of(rec_id), participant=NAME)
    (lab.nas / BAD / "manifest.json").write_text("{")
    (lab.nas / LATE / "session.lock").touch()
    died = launch_stored(lab.config, instance, GOOD, BAD, LATE)
    write_recording(lab.nas, BAD, files_of(BAD), participant=NAME)
    (lab.nas / LATE / "session.lock").unlink()

    again = launch_stored(
        lab.config, instance, again=dg.ReexecutionOptions(died.run_id, step_selection=["recording.upload+++"])
    )

    assert again.success
    assert verdicts(again)[WHOLE_BATCH] == set()
    assert [len(materializations(instance, rec_id)) for rec_id in (BAD, LATE)] == [1, 1]
    lab.check_invariants()


def test_reexecution_of_all_steps_takes_what_fails_once(lab: Lab, instance: dg.DagsterInstance):
    damage(write_recording(lab.nas, BAD, files_of(BAD)))
    failed = launch_stored(lab.config, instance, BAD)

    again = launch_stored(lab.config, instance, BAD, again=dg.ReexecutionOptions(failed.run_id))

    assert not again.success
    assert read_histories(instance)[BAD].attempts == 2


def test_a_run_by_hand_takes_a_quarantined_recording_and_clears_it(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD))
    instance.add_dynamic_partitions("recordings", [GOOD])
    instance.report_runless_asset_event(Mark(GOOD, "quarantined", "three times is enough").observation())
    assert read_histories(instance)[GOOD].is_held

    assert launch(lab.config, instance, GOOD).success

    assert not read_histories(instance)[GOOD].is_held


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, GOOD, files_of(GOOD))
    launch(lab.config, instance, GOOD)
    for rec_id in (BAD, OTHER):
        write_recording(lab.nas, rec_id, files_of(rec_id))
    (lab.nas / BAD / "manifest.json").write_text("{")
    before = lab.everything()

    result = launch(lab.config, instance, GOOD, BAD, OTHER, run_config=DRY_RUN)

    assert result.success
    assert lab.everything() == before
    assert [len(materializations(instance, rec_id)) for rec_id in (GOOD, BAD, OTHER)] == [1, 0, 0]
    assert read_histories(instance, [BAD, OTHER]) == {}
    table = shown_table(result)
    size = sum(map(len, files_of(OTHER).values()))
    assert table[GOOD]["outcome"] == "would send nothing; registered already"
    assert table[OTHER]["outcome"] == f"would send 4 files, {size:,} bytes; would register it"
    assert "manifest.json" in str(table[BAD]["reason"])


def test_a_node_that_has_not_come_is_a_warning_until_somebody_waives_it(lab: Lab, instance: dg.DagsterInstance):
    host = {"camera_a/seg_0000.mp4": b"video"}
    nodes = {"green-mantis": host, "green-motor": {"eeg_4559/seg_0000.edf": b"eeg"}}
    manifests = {
        f"_node_manifests/{node}.json": json.dumps(manifest_of(GOOD, files, node=node)).encode()
        for node, files in nodes.items()
    }
    write_recording(lab.nas, GOOD, host | manifests, manifest=False, participant=NAME)

    result = launch(lab.config, instance, GOOD)

    assert result.success
    assert verdicts(result) == {GOOD: {"modalities_complete"}}
    told = next(one for one in evaluations(result) if one.check_name == "modalities_complete")
    assert told.severity == dg.AssetCheckSeverity.WARN
    assert told.description == "1 of 2 nodes: green-motor missing"

    instance.report_runless_asset_event(Mark(GOOD, "waived", "the drive is lost").observation())

    assert verdicts(launch(lab.config, instance, GOOD)) == {GOOD: set()}


def test_a_long_upload_tells_how_far_it_has_come_and_marks_nothing(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telling, "_OBSERVED_EVERY_SECONDS", 0.0)
    write_recording(lab.nas, GOOD, files_of(GOOD))

    assert launch(lab.config, instance, GOOD).success

    size = sum(map(len, files_of(GOOD).values()))
    told = marks(instance, GOOD)
    assert max(one["bytes_so_far"] for one in told) == size
    assert {one["bytes"] for one in told} == {size}
    assert "mark" not in {name for one in told for name in one}
    assert read_histories(instance)[GOOD].last is None


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


def test_what_a_dry_run_cannot_find_says_nothing_against_what_is_registered(lab: Lab, instance: dg.DagsterInstance):
    directory = write_recording(lab.nas, GOOD, files_of(GOOD), participant=NAME)
    launch(lab.config, instance, GOOD)
    (directory / "manifest.json").write_text("{")

    assert verdicts(launch(lab.config, instance, GOOD, run_config=DRY_RUN)) == {}
    assert verdicts(launch(lab.config, instance, GOOD)) == {}
