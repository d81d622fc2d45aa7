"""The jobs beside the ingest: register_only and verify (DESIGN section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.orchestration.launch import QUIET, failures, marks, materializations, values
from tests.recordings_on_disk import write_recording
from ursa_pipelines.orchestration.definitions import build_definitions

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"


def files_of(rec_id: str) -> dict[str, bytes]:
    return {CAMERA: b"video" * 100, MIC: b"audio" * 10, "notes/notes.jsonl": rec_id.encode()}


def run(
    lab: Lab,
    instance: dg.DagsterInstance,
    job: str,
    op: str,
    config: dict[str, Any],
    partition: str | None = None,
    known: Sequence[str] = (FIRST, SECOND, THIRD),
) -> dg.ExecuteInProcessResult:
    """Runs a job, over a partition or by its config alone."""
    instance.add_dynamic_partitions("recordings", known)
    return (
        build_definitions(None, lab.config)
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            run_config={**QUIET, "ops": {op: {"config": config}}},
            partition_key=partition,
            raise_on_error=False,
        )
    )


def damage(lab: Lab, rec_id: str, content: bytes) -> None:
    """Writes over an object, which nobody should be able to do."""
    key = f"recordings/{rec_id}/{MIC}"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(content))


def kept(instance: dg.DagsterInstance, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    """The events of this kind of the newest run."""
    (newest,) = instance.get_run_records(limit=1)
    records = instance.get_records_for_run(newest.dagster_run.run_id, of_type=kind).records
    return [event for record in records if (event := record.event_log_entry.dagster_event)]


def failed_checks(instance: dg.DagsterInstance) -> set[tuple[str | None, str]]:
    """Partition and name of the checks that failed in the newest run, warnings aside."""
    evaluations = [
        event.asset_check_evaluation_data for event in kept(instance, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    ]
    assert evaluations
    return {
        (one.partition, one.check_name)
        for one in evaluations
        if not one.passed and one.severity == dg.AssetCheckSeverity.ERROR
    }


def table(instance: dg.DagsterInstance, name: str) -> dict[str, Any]:
    """What the newest run tells of the whole lot, its table by recording."""
    observations = [
        event.asset_observation_data.asset_observation
        for event in kept(instance, dg.DagsterEventType.ASSET_OBSERVATION)
    ]
    (told,) = (values(one.metadata) for one in observations if one.partition is None)
    return {**told, name: {record.data["recording"]: record.data for record in told[name].records}}


def test_register_only_takes_what_a_rig_has_uploaded(lab: Lab, instance: dg.DagsterInstance, tmp_path: Path):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, files_of(FIRST)))
    before = lab.objects(FIRST)

    result = run(lab, instance, "register_only", "register_from_bucket", {}, FIRST)

    assert result.success
    (event,) = materializations(instance, FIRST)
    assert (values(event.metadata)["path"], values(event.metadata)["verification"]) == ("B", "size")
    assert failed_checks(instance) == set()
    assert lab.objects(FIRST) == before
    lab.check_invariants()


def test_register_only_looks_at_no_source_and_makes_no_manifest(lab: Lab, instance: dg.DagsterInstance, tmp_path: Path):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, files_of(FIRST), manifest=False))
    write_recording(lab.nas, FIRST, files_of(FIRST))
    write_recording(lab.nas, SECOND, files_of(SECOND))
    before = lab.everything()

    chosen = {"recordings": [FIRST, SECOND]}
    result = run(lab, instance, "register_only", "register_from_bucket", chosen)

    assert not result.success
    assert lab.everything() == before
    assert {rec_id: one["status"] for rec_id, one in table(instance, "recordings")["recordings"].items()} == {
        FIRST: "FAIL",
        SECOND: "FAIL",
    }
    assert [one["error"] for rec_id in (FIRST, SECOND) for one in marks(instance, rec_id)] == [
        "ManifestNotFound",
        "SourceNotFound",
    ]


def test_register_only_adds_the_partitions_of_what_it_registered(
    lab: Lab, instance: dg.DagsterInstance, tmp_path: Path
):
    for rec_id in (FIRST, SECOND):
        upload_as_rig(lab, write_recording(tmp_path, rec_id, files_of(rec_id)))

    chosen = {"recordings": [SECOND, THIRD, "../x", FIRST]}
    run(lab, instance, "register_only", "register_from_bucket", chosen, known=())

    assert instance.get_dynamic_partitions("recordings") == [FIRST, SECOND]


@pytest.mark.parametrize("job", ["register_only", "verify"])
def test_a_run_without_any_recording_says_what_to_do(job: str, lab: Lab, instance: dg.DagsterInstance):
    op = {"register_only": "register_from_bucket", "verify": "compare"}[job]

    result = run(lab, instance, job, op, {})

    assert "Choose a partition" in failures(result)[op]


def test_verify_names_the_recording_whose_object_is_missing(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (FIRST, SECOND):
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files_of(rec_id)))
    damage(lab, SECOND, b"audio")
    before = lab.everything()

    result = run(lab, instance, "verify", "compare", {"recordings": [FIRST, SECOND, THIRD]})

    assert not result.success
    reason = failures(result)["compare"]
    assert FIRST not in reason
    assert f"{SECOND}: " in reason
    assert f"{MIC} has 5 bytes in the bucket, but 50 are listed" in reason
    assert reason.count(THIRD) == 1
    assert f"{THIRD}: it is not in the catalog" in reason
    assert failed_checks(instance) == {
        (SECOND, "objects_present"),
        (SECOND, "rows_match_manifest"),
        (THIRD, "objects_present"),
        (THIRD, "rows_match_manifest"),
    }
    told = table(instance, "found")
    assert (told["recordings"], told["with_problems"]) == (3, 2)
    assert (told["found"][FIRST]["files"], told["found"][FIRST]["problems"]) == (3, "")
    assert lab.everything() == before


@pytest.mark.parametrize("deep", [False, True])
def test_fault_86_only_a_deep_look_finds_other_bytes_of_the_same_size(
    deep: bool, lab: Lab, instance: dg.DagsterInstance
):
    lab.data.ingest(source_dir=write_recording(lab.nas, FIRST, files_of(FIRST)))
    damage(lab, FIRST, b"AUDIO" * 10)

    result = run(lab, instance, "verify", "compare", {"deep": deep}, FIRST)

    assert result.success is not deep
    assert failed_checks(instance) == ({(FIRST, "objects_present")} if deep else set())
    assert ("is listed" in table(instance, "found")["found"][FIRST]["problems"]) is deep
