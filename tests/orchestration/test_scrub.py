"""The job `scrub`: quarantine with evidence, sending again from the NAS, and what is told."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import dagster as dg
import pytest

from tests.lab import Lab
from tests.orchestration.launch import failures, launch, marks, materializations, values
from tests.orchestration.test_jobs import FIRST, MIC, SECOND, damage, failed_checks, files_of, run, table
from tests.recordings_on_disk import write_recording
from ursa_pipelines.maintenance.scrub.ledger import read_month, read_state
from ursa_pipelines.orchestration.decisions import audit, decide
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.reconciliation import RECONCILIATION
from ursa_pipelines.orchestration.scrub import scrub_schedule, size_of
from ursa_pipelines.orchestration.states import read_histories
from ursa_pipelines.profiles import load_profile

ALL_DUE = {"rest_days": 0}


def scrub(lab: Lab, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return run(lab, instance, "scrub", "read_again", {**ALL_DUE, **config})


def delete(lab: Lab, rec_id: str, path: str = MIC) -> None:
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{rec_id}/{path}")


def held(instance: dg.DagsterInstance, rec_id: str) -> str:
    """Why a recording is in quarantine, or ""."""
    history = read_histories(instance, [rec_id])[rec_id]
    return history.quarantined.reason if history.quarantined else ""


@pytest.fixture
def ingested(lab: Lab, instance: dg.DagsterInstance) -> Lab:
    """Two recordings, ingested by a run, whose directories are on the NAS."""
    for rec_id in (FIRST, SECOND):
        write_recording(lab.nas, rec_id, files_of(rec_id))
    assert launch(lab.config, instance, FIRST, SECOND).success
    return lab


def test_what_is_sound_is_told_on_its_partition_and_in_the_run(ingested: Lab, instance: dg.DagsterInstance):
    result = scrub(ingested, instance)

    assert result.success
    told = table(instance, "found")
    assert (told["recordings"], told["bytes"], told["with_problems"], told["mended"]) == (2, 1_148, 0, 0)
    assert told["requests"] >= 2 * 3
    assert told["oldest_days_before"] >= told["oldest_days_after"]
    assert told["found"][FIRST]["outcome"] == "sound"
    (observed,) = (one for one in marks(instance, FIRST) if "bytes_read" in one)
    assert observed["bytes_read"] == 574
    assert set(read_month(ingested.assets, "2026-05")) == {FIRST, SECOND}
    assert scrub(ingested, instance, rest_days=30).success
    assert table(instance, "found")["recordings"] == 0
    ingested.check_invariants()


def test_of_a_large_recording_whose_first_part_has_failed_the_last_is_not_told_as_sound(
    lab: Lab, instance: dg.DagsterInstance
):
    write_recording(lab.nas, FIRST, files_of(FIRST))
    assert launch(lab.config, instance, FIRST).success
    damage(lab, FIRST, b"noise" * 10)

    assert not scrub(lab, instance, bytes_per_day="560B").success
    assert FIRST in read_state(lab.assets).cursors
    assert scrub(lab, instance).success

    assert f"{MIC} has SHA-256" in held(instance, FIRST)
    assert "by its ingest" in held(instance, FIRST)
    assert not [one for one in marks(instance, FIRST) if "bytes_read" in one]


def test_a_missing_object_is_quarantined_sent_again_from_the_nas_and_free_again(
    ingested: Lab, instance: dg.DagsterInstance
):
    before = ingested.objects(FIRST)
    delete(ingested, FIRST)

    result = scrub(ingested, instance)

    assert result.success, failures(result)
    assert ingested.objects(FIRST).keys() == before.keys()
    quarantined = next(one for one in marks(instance, FIRST) if one.get("mark") == "quarantined")
    assert f"{MIC} is listed but not in the bucket" in quarantined["reason"]
    assert "by its ingest" in quarantined["reason"]
    evidence = quarantined["evidence"].records[0].data
    assert (evidence["path"], evidence["kind"], evidence["expected_size"]) == (MIC, "missing", 50)
    assert evidence["expected_sha256"] == hashlib.sha256(b"audio" * 10).hexdigest()
    assert held(instance, FIRST) == ""
    newest = values(materializations(instance, FIRST)[0].metadata)
    assert (newest["outcome"], newest["files_uploaded"]) == ("unchanged", 1)
    assert newest["note"].startswith(f"scrub: {MIC} missing in the bucket; sent again from nas")
    assert any(one.why == newest["note"] for one in audit(ingested.data, instance, FIRST))
    told = table(instance, "found")
    assert (told["with_problems"], told["mended"], told["found"][FIRST]["outcome"]) == (1, 1, "mended")
    assert failed_checks(instance) == {(FIRST, "objects_present"), (FIRST, "rows_match_manifest")}
    assert read_state(ingested.assets).unsound == {}
    ingested.check_invariants()


def test_a_missing_object_without_a_good_copy_stays_quarantined_until_one_is_there(
    ingested: Lab, instance: dg.DagsterInstance
):
    delete(ingested, FIRST)
    good = (ingested.nas / FIRST / MIC).read_bytes()
    (ingested.nas / FIRST / MIC).write_bytes(b"AUDIO" * 10)

    result = scrub(ingested, instance)

    assert not result.success
    assert "is damaged, too: its SHA-256 is" in failures(result)["read_again"]
    assert MIC not in ingested.objects(FIRST)
    reason = held(instance, FIRST)
    # It is not told anew each day.
    assert scrub(ingested, instance, rest_days=30).success
    assert held(instance, FIRST) == reason
    assert len([one for one in marks(instance, FIRST) if one.get("mark")]) == 1
    # Once there is a good copy it is sent again, by itself.
    (ingested.nas / FIRST / MIC).write_bytes(good)
    assert scrub(ingested, instance, rest_days=30).success
    assert held(instance, FIRST) == ""
    assert MIC in ingested.objects(FIRST)
    ingested.check_invariants()


def test_a_damaged_object_is_left_as_it_is_and_the_quarantine_says_where_a_good_copy_is(
    ingested: Lab, instance: dg.DagsterInstance
):
    damage(ingested, FIRST, b"AUDIO" * 10)
    before = ingested.objects(FIRST)

    result = scrub(ingested, instance)

    assert not result.success
    assert ingested.objects(FIRST) == before
    (mark,) = (one for one in marks(instance, FIRST) if one.get("mark"))
    assert f"{ingested.nas / FIRST / MIC} is good" in mark["reason"]
    assert mark["reason"].endswith(mark["what_to_do"])
    assert f"r2://{ingested.raw.name}/recordings/{FIRST}/{MIC}" in mark["what_to_do"]
    assert f"ursa retry {FIRST}" in mark["what_to_do"]
    assert (mark["error"], mark["evidence"].records[0].data["etag"]) == ("ContentMismatch", before[MIC])
    assert failed_checks(instance) == {(FIRST, "objects_present")}
    # It is in the night's table, too, and no automation takes it up.
    nightly = build_definitions(None, ingested.config).resolve_job_def("nightly")
    nightly.execute_in_process(instance=instance, asset_selection=[RECONCILIATION], raise_on_error=False)
    (event,) = instance.fetch_materializations(RECONCILIATION, limit=1).records
    assert event.asset_materialization is not None
    attention = values(event.asset_materialization.metadata)["attention"].records
    assert [(one.data["recording"], one.data["state"]) for one in attention] == [(FIRST, "quarantined")]
    # A person has taken the damaged one away.
    delete(ingested, FIRST)
    assert scrub(ingested, instance, rest_days=30).success
    assert (held(instance, FIRST), ingested.objects(FIRST).keys()) == ("", before.keys())
    ingested.check_invariants()


def test_what_somebody_has_mended_is_free_again_and_what_somebody_accepted_stays_so(
    ingested: Lab, instance: dg.DagsterInstance
):
    for rec_id in (FIRST, SECOND):
        damage(ingested, rec_id, b"AUDIO" * 10)
    assert not scrub(ingested, instance).success
    decide(ingested.data, instance, [SECOND], "waived", "nobody needs the sound")
    damage(ingested, FIRST, b"audio" * 10)

    assert scrub(ingested, instance, rest_days=30).success

    histories = read_histories(instance, [FIRST, SECOND])
    assert histories[FIRST].quarantined is None
    assert histories[FIRST].last is not None
    assert histories[FIRST].last.reason == "read again, and sound now"
    assert histories[SECOND].waived is not None
    assert histories[SECOND].last is not None
    assert histories[SECOND].last.kind == "waived"


def test_what_a_person_has_set_aside_is_told_of_and_neither_sent_again_nor_lifted(
    ingested: Lab, instance: dg.DagsterInstance
):
    decide(ingested.data, instance, [FIRST], "quarantined", "the subject has withdrawn")
    decide(ingested.data, instance, [SECOND], "waived", "nobody needs the sound")
    good = {rec_id: ingested.raw.get(f"recordings/{rec_id}/{MIC}")[0] for rec_id in (FIRST, SECOND)}
    for rec_id in (FIRST, SECOND):
        delete(ingested, rec_id)

    assert not scrub(ingested, instance).success

    assert MIC not in ingested.objects(FIRST).keys() | ingested.objects(SECOND).keys()
    reason = held(instance, FIRST)
    assert reason.startswith("the subject has withdrawn; a scrub has found since: ")
    assert f"{MIC} is listed but not in the bucket" in reason
    # It is not told anew each day.
    assert scrub(ingested, instance, rest_days=30).success
    assert held(instance, FIRST) == reason
    for rec_id, content in good.items():
        ingested.raw.create(f"recordings/{rec_id}/{MIC}", content)
    assert scrub(ingested, instance, rest_days=30).success
    histories = read_histories(instance, [FIRST, SECOND])
    assert histories[FIRST].quarantined is not None
    assert histories[FIRST].quarantined.by == ingested.data.writer.by
    assert histories[SECOND].waived is not None


def test_a_source_with_other_bytes_never_sends_what_only_the_marker_attests(lab: Lab, instance: dg.DagsterInstance):
    files = {name: content for name, content in files_of(FIRST).items() if name != "manifest.json"}
    listed = [{"path": path, "size_bytes": len(content)} for path, content in files.items()]
    for source in (lab.nas, lab.usb):
        directory = write_recording(source, FIRST, files)
        (directory / "manifest.json").write_text(json.dumps({"recording_id": FIRST, "files": listed}))
    assert launch(lab.config, instance, FIRST).success
    (lab.nas / FIRST / MIC).write_bytes(b"AUDIO" * 10)
    delete(lab, FIRST)

    result = scrub(lab, instance)

    assert result.success, failures(result)
    assert lab.raw.get(f"recordings/{FIRST}/{MIC}")[0] == b"audio" * 10
    assert held(instance, FIRST) == ""


def test_what_cannot_be_sent_now_says_why_and_is_sent_another_day(ingested: Lab, instance: dg.DagsterInstance):
    delete(ingested, FIRST)
    (ingested.nas / FIRST / "session.lock").write_text("somebody writes")

    result = scrub(ingested, instance)

    assert not result.success
    assert "sending it again failed" in held(instance, FIRST)
    assert MIC not in ingested.objects(FIRST)
    assert scrub(ingested, instance, rest_days=30).success
    assert len([one for one in marks(instance, FIRST) if one.get("mark") == "quarantined"]) == 2
    (ingested.nas / FIRST / "session.lock").unlink()
    assert scrub(ingested, instance, rest_days=30).success
    assert held(instance, FIRST) == ""


def test_the_budget_of_a_run_may_be_set_and_its_end_is_told(ingested: Lab, instance: dg.DagsterInstance):
    result = scrub(ingested, instance, bytes_per_day="0.6KB")

    assert result.success
    told = table(instance, "found")
    assert (told["recordings"], told["ended"]) == (1, "the day's budget is used up")
    assert not scrub(ingested, instance, bytes_per_day="plenty").success
    assert size_of("200GB") == 200 * 10**9


def test_a_run_ends_when_its_time_is_up(ingested: Lab, instance: dg.DagsterInstance):
    assert scrub(ingested, instance, minutes=1e-9).success

    told = table(instance, "found")
    assert (told["recordings"], told["ended"]) == (0, "a stop was asked for")


@pytest.mark.parametrize("profile", ["local", "r2"])
def test_scrub_is_daily_alone_and_runs_by_itself_nowhere(profile: str):
    schedule = scrub_schedule(load_profile(profile))

    assert (schedule.name, schedule.cron_schedule) == ("scrub", "0 3 * * *")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    job = build_definitions(profile).resolve_job_def("scrub")
    assert job.tags["ursa/alone"] == "scrub"
