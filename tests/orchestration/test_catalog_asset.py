"""The asset `catalog`: what a run leaves in the bucket, in the events and in the checks."""

from __future__ import annotations

import base64
import io
import re
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from tests.lab import Lab
from tests.orchestration.launch import QUIET, failures, values
from tests.recordings_on_disk import write_recording
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.orchestration import catalog_asset
from ursa_pipelines.orchestration.backlog import age_in_hours, find_backlog
from ursa_pipelines.orchestration.catalog_asset import CATALOG, CATALOG_JOB
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.profiles import load_profile

FIRST, SECOND, THIRD, FOURTH = (f"rec_2026052{day}_195628_b1dd" for day in range(4))
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio"}
NAME = "Aria Lin"


def ingested(lab: Lab, *rec_ids: str) -> None:
    for rec_id in rec_ids:
        files = {path: content + rec_id.encode() for path, content in FILES.items()}
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, participant=NAME))


def run(lab: Lab, instance: dg.DagsterInstance, **config: bool) -> dg.ExecuteInProcessResult:
    job = build_definitions(None, lab.config).resolve_job_def(CATALOG_JOB)
    asked: dict[str, Any] = {"ops": {"catalog": {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=QUIET | asked, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult) -> list[dict[str, Any]]:
    return [values(one.metadata) for one in result.asset_materializations_for_node("catalog")]


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {one.check_name: one.passed for one in result.get_asset_check_evaluations()}


def test_a_run_folds_and_shows_what_the_catalog_holds(lab: Lab, instance: dg.DagsterInstance):
    ingested(lab, FIRST, SECOND)

    result = run(lab, instance)

    (shown,) = told(result)
    assert (shown["folded"], shown["marks_left"]) == (2, 0)
    assert {name: shown[f"rows_{name}"] for name in ("recordings", "modalities", "participants", "events")} == {
        "recordings": 2,
        "modalities": 4,
        "participants": 1,
        "events": 2,
    }
    assert shown["dagster/row_count"] == 2
    assert shown["dagster/uri"] == f"r2://{lab.assets.name}/{lab.data.catalog.prefix}/tables/recordings"
    assert "recording_hash" in {column.name for column in shown["dagster/column_schema"].columns}
    assert not read_tail(lab.assets, lab.data.catalog.prefix)
    assert checks(result) == {"tail_is_short": True, "tables_agree": True}


def test_the_plots_are_pictures_within_the_metadata_and_hold_no_name(lab: Lab, instance: dg.DagsterInstance):
    ingested(lab, FIRST)

    (shown,) = told(run(lab, instance))

    pictures = dict(re.findall(r"!\[(.*?)\]\(data:image/png;base64,(.*?)\)", shown["plots"]))
    assert set(pictures) == {"Recordings per day", "Modalities", "Participants per recording", "Backlog"}
    for encoded in pictures.values():
        Image.open(io.BytesIO(base64.b64decode(encoded))).verify()
    assert len(shown["plots"]) < 60_000
    assert NAME not in repr(shown)


def test_an_hour_in_which_nothing_came_adds_no_event_until_the_last_one_is_old(
    lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    ingested(lab, FIRST)

    assert len(told(run(lab, instance, only_if_changed=True))) == 1
    assert told(run(lab, instance, only_if_changed=True)) == []
    assert len(told(run(lab, instance))) == 1
    ingested(lab, SECOND)
    assert len(told(run(lab, instance, only_if_changed=True))) == 1
    monkeypatch.setattr(catalog_asset, "_SAID_AGAIN_AFTER", timedelta(0))
    assert len(told(run(lab, instance, only_if_changed=True))) == 1


def test_compaction_joins_the_small_files_and_says_so(lab: Lab, instance: dg.DagsterInstance):
    for day in range(6):
        ingested(lab, f"rec_2026053{day % 2}_19562{day}_b1dd")
        lab.data.fold()

    (shown,) = told(run(lab, instance, compact=True))

    assert shown["files"] < shown["files_before"]
    assert shown["compaction"] == "done"
    assert shown["rows_recordings"] == 6


def test_a_catalog_that_cannot_be_read_fails_with_what_to_do(lab: Lab, instance: dg.DagsterInstance):
    ingested(lab, FIRST)
    head, info = (lab.data.fold(), lab.assets.get(f"{lab.data.catalog.prefix}/HEAD.json"))[1]
    assert head
    lab.assets.replace(f"{lab.data.catalog.prefix}/HEAD.json", b"{", info.etag)
    ingested(lab, SECOND)

    result = run(lab, instance)

    assert not result.success
    assert "run `ursa catalog fold`" in failures(result)["catalog"]


def test_rows_that_the_tables_lack_are_found(lab: Lab, instance: dg.DagsterInstance):
    ingested(lab, FIRST, SECOND)
    run(lab, instance)
    key = next(iter(lab.assets.list_objects(f"{lab.data.catalog.prefix}/entries/"))).key
    body, info = lab.assets.get(key)
    # As if its mark had been lost.
    lab.assets.replace(key, body + b"\n", info.etag)

    result = run(lab, instance)

    assert checks(result) == {"tail_is_short": True, "tables_agree": False}


def test_a_tail_that_stays_long_is_a_warning(lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog_asset, "MARKS_ALLOWED", -1)

    result = run(lab, instance)

    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "tail_is_short"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.success


def test_the_backlog_is_what_arrived_and_is_neither_registered_nor_held(lab: Lab, instance: dg.DagsterInstance):
    instance.add_dynamic_partitions("recordings", [FIRST, SECOND, THIRD, FOURTH])
    ingested(lab, FIRST)
    instance.report_runless_asset_event(Mark(SECOND, "waived", reason="test shot").observation())
    instance.report_runless_asset_event(Mark(FOURTH, "quarantined", reason="failed 4 times").observation())
    instance.report_runless_asset_event(Mark(THIRD, "failed", reason="bad digest").observation())

    backlog = find_backlog(instance, lab.data.catalog)

    assert {rec_id: history.last and history.last.reason for rec_id, history in backlog.items()} == {
        THIRD: "bad digest"
    }
    assert told(run(lab, instance))[0]["backlog"] == 1
    assert age_in_hours(THIRD) > 0
    assert age_in_hours("no recording") == 0


@pytest.mark.parametrize(("profile", "status"), [("local", "RUNNING"), ("r2", "STOPPED"), ("r2-test", "STOPPED")])
def test_schedules_run_by_themselves_on_this_machine_only(profile: str, status: str):
    schedules = catalog_asset.catalog_schedules(load_profile(profile))

    assert {one.name for one in schedules} == {"catalog_hourly", "catalog_weekly"}
    assert {one.default_status.value for one in schedules} == {status}


@pytest.mark.parametrize("name", ["catalog_hourly", "catalog_weekly"])
def test_what_a_schedule_asks_for_is_a_valid_run(name: str, lab: Lab, instance: dg.DagsterInstance):
    repository = build_definitions(None, lab.config).get_repository_def()
    schedule = repository.get_schedule_def(name)
    with dg.build_schedule_context(instance=instance, repository_def=repository) as context:
        (request,) = schedule.evaluate_tick(context).run_requests

    result = (
        build_definitions(None, lab.config)
        .resolve_job_def(CATALOG_JOB)
        .execute_in_process(instance=instance, run_config=QUIET | dict(request.run_config))
    )

    assert result.success
    assert instance.get_latest_materialization_event(CATALOG)
