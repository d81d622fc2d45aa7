"""The nightly reconciliation over a small lab: what it shows, what it reports as arrived, what it sets aside."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.lab import Lab
from tests.orchestration.launch import RECORDING, launch, values
from tests.recordings_on_disk import manifest_of, set_age, write_recording
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.maintenance.reconciliation import Registered, Standing, look_again
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.orchestration import rearrivals
from ursa_pipelines.orchestration import reconciliation as module
from ursa_pipelines.orchestration.cases import Case
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.outlook import look_ahead
from ursa_pipelines.orchestration.reconciled import Tally
from ursa_pipelines.orchestration.reconciliation import NIGHTLY_JOB, nightly_schedule, reconciliation
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.states import History, Mark, read_histories
from ursa_pipelines.profiles import load_profile

OLD, FIRST, SECOND, THIRD, FOURTH, FIFTH = (f"rec_20260520_19562{digit}_b1dd" for digit in "012345")
PATHS = ("camera_a/seg_0000.mp4", "mic/seg_0000.wav")


def written(root: Path, rec_id: str, **options: Any) -> Path:
    return write_recording(root, rec_id, {path: f"{path} {rec_id}".encode() for path in PATHS}, **options)


@dataclass
class Desk:
    """An instance in which partitions are known, and the condition evaluated as the automation sensor does."""

    lab: Lab
    instance: dg.DagsterInstance

    def __post_init__(self) -> None:
        self.definitions = build_definitions(None, self.lab.config)
        self._cursor: Any = None
        self.instance.add_dynamic_partitions("recordings", [OLD])
        self.asked_for()

    def asked_for(self) -> set[str]:
        found = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self._cursor)
        self._cursor = found.cursor
        return {str(key) for key in found.get_requested_partitions(RECORDING)}

    def reconcile(self, **config: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [reconciliation],
            instance=self.instance,
            resources={"ursa": UrsaResource(config_path=str(self.lab.config))},
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {"reconciliation": {"config": config}},
            },
        )

    def found(self, **config: Any) -> dict[str, Any]:
        """What the reconciliation shows; the table by recording."""
        (event,) = self.reconcile(**config).asset_materializations_for_node("reconciliation")
        told = values(event.metadata)
        table = event.metadata["attention"]
        assert isinstance(table, dg.TableMetadataValue)
        told["attention"] = {str(record.data["recording"]): dict(record.data) for record in table.records}
        return told

    def arrivals(self, asset: str, rec_id: str) -> list[str]:
        """The fingerprints with which a recording arrived, newest first."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[rec_id])
        records = self.instance.fetch_materializations(wanted, limit=10).records
        events = [record.asset_materialization for record in records]
        return [(event.tags or {})["dagster/data_version"] for event in events if event]

    def mark(self, mark: Mark) -> None:
        self.instance.report_runless_asset_event(mark.observation())

    def run_that_dies(self, rec_id: str) -> None:
        """As run monitoring leaves one that was killed."""
        run = self.instance.create_run_for_job(
            self.definitions.resolve_job_def("ingest"),
            tags={"dagster/partition": rec_id},
            asset_selection={RECORDING},
            status=dg.DagsterRunStatus.STARTED,
        )
        self.instance.report_run_failed(run)


@pytest.fixture
def desk(lab: Lab, instance: dg.DagsterInstance) -> Desk:
    return Desk(lab, instance)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def told_in(evaluation: dg.AssetCheckEvaluation, label: str) -> str:
    return str(evaluation.metadata[label].value)


def test_what_no_sensor_saw_is_counted_reported_and_then_asked_for_once(desk: Desk, lab: Lab):
    lab.data.ingest(source_dir=written(lab.nas, FIRST))
    written(lab.usb, SECOND)
    lock = written(lab.nas, THIRD) / "session.lock"
    lock.touch()
    for path in (*PATHS, "manifest.json"):
        body = (lab.nas / FIRST / path).read_bytes()
        lab.raw.create(raw_key(FOURTH, path), body.replace(FIRST.encode(), FOURTH.encode()))

    told = desk.found()

    assert {name: told[name] for name in ("recordings", "registered", "waiting", "arrivals", "backlog")} == {
        "recordings": 4,
        "registered": 1,
        "waiting": 3,
        "arrivals": 1,
        "backlog": 3,
    }
    assert told["attention"][SECOND]["evidence"].startswith("usb 2 files")
    assert "still recording" in told["attention"][THIRD]["reason"]
    assert "quiet for" in told["attention"][FOURTH]["reason"]
    assert told["backlog_bytes"] == sum(len(f"{path} {rec_id}") for path in PATHS for rec_id in (SECOND, THIRD))
    assert told["oldest_backlog_hours"] > 24
    assert len(desk.arrivals("usb_recording", SECOND)) == 1
    assert desk.arrivals("nas_recording", FIRST) == []
    assert desk.asked_for() == {SECOND}
    again = desk.found()
    assert again["arrivals"] == 0
    assert "arrived already" in again["attention"][SECOND]["reason"]
    assert desk.asked_for() == set()


def test_a_recording_that_only_the_bucket_has_arrives_there_once_it_is_quiet(lab: Lab, instance: dg.DagsterInstance):
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= {"quiet_period": 0}
    lab.config.write_text(yaml.safe_dump(profile))
    desk = Desk(lab, instance)
    files = {path: path.encode() for path in PATHS}
    for path, content in files.items():
        lab.raw.create(raw_key(FIRST, path), content)
    lab.raw.create(raw_key(FIRST, "manifest.json"), json.dumps(manifest_of(FIRST, files)).encode())

    desk.found()

    assert len(desk.arrivals("r2_recording", FIRST)) == 1
    assert desk.asked_for() == {FIRST}
    launch(lab.config, instance, FIRST)
    assert desk.found()["registered"] == 1


def test_a_run_may_only_look(desk: Desk, lab: Lab):
    written(lab.nas, FIRST)
    written(lab.nas, SECOND)
    desk.mark(Mark(SECOND, "failed", "the digest is wrong"))

    told = desk.found(only_look=True)

    assert (told["arrivals"], told["arrivals_left"], told["quarantined_now"]) == (0, 1, 0)
    assert set(told["attention"]) == {FIRST, SECOND}
    assert desk.asked_for() == set()
    assert not read_histories(desk.instance)[SECOND].is_held


def test_what_changed_after_its_registration_arrives_again(desk: Desk, lab: Lab):
    directory = written(lab.nas, FIRST)
    launch(lab.config, desk.instance, FIRST)
    desk.asked_for()
    assert desk.found()["registered"] == 1
    assert desk.asked_for() == set()
    set_age(directory, 1800)

    told = desk.found()

    assert (told["waiting"], told["arrivals"], told["backlog"]) == (1, 1, 0)
    assert desk.asked_for() == {FIRST}


def test_failures_are_tried_again_until_they_are_set_aside(desk: Desk, lab: Lab):
    passing, hopeless, damaged = (written(lab.nas, rec_id).name for rec_id in (FIRST, SECOND, THIRD))
    desk.instance.add_dynamic_partitions("recordings", [passing, hopeless, damaged])
    desk.asked_for()
    desk.mark(Mark(passing, "failed", "the store is away", retryable=True))
    for _ in range(4):
        desk.mark(Mark(hopeless, "failed", "the store is away", retryable=True))
    desk.mark(Mark(damaged, "failed", "the digest is wrong"))

    result = desk.reconcile()

    assert desk.asked_for() == {passing}
    histories = read_histories(desk.instance)
    assert [histories[one].is_held for one in (passing, hopeless, damaged)] == [False, True, True]
    last = histories[damaged].last
    assert last is not None
    assert (last.by, last.reason) == ("ursa", "the digest is wrong")
    held = checks(result)["nothing_quarantined"]
    assert not held.passed
    assert damaged in told_in(held, "found")
    assert "ursa retry" in told_in(held, "what_to_do")
    assert desk.found()["quarantined"] == 2
    assert desk.asked_for() == set()


def test_held_recordings_are_passed_by(desk: Desk, lab: Lab):
    for rec_id in (FIRST, SECOND):
        set_age(written(lab.nas, rec_id), 0)
    desk.mark(Mark(FIRST, "quarantined", "damaged", by="someone@desk"))
    desk.mark(Mark(SECOND, "waived", "a test", by="someone@desk"))

    told = desk.found()

    assert (told["quarantined"], told["waived"], told["arrivals"]) == (1, 1, 0)
    assert list(told["attention"]) == [FIRST]
    assert desk.asked_for() == set()


def test_a_recording_in_a_run_is_left_to_it(desk: Desk, lab: Lab):
    written(lab.nas, FIRST)
    desk.instance.add_dynamic_partitions("recordings", [FIRST])
    desk.asked_for()
    desk.instance.create_run_for_job(
        desk.definitions.resolve_job_def("ingest"),
        tags={"dagster/partition": FIRST},
        asset_selection={RECORDING},
        status=dg.DagsterRunStatus.STARTED,
    )

    told = desk.found()

    assert (told["running"], told["arrivals"]) == (1, 0)


def test_fault_3_a_run_that_died_is_tried_again_and_counted(desk: Desk, lab: Lab):
    written(lab.nas, FIRST)
    desk.instance.add_dynamic_partitions("recordings", [FIRST])
    desk.asked_for()
    desk.run_that_dies(FIRST)

    told = desk.found()

    assert (told["failed"], told["arrivals"]) == (1, 1)
    assert read_histories(desk.instance)[FIRST].attempts == 1
    assert desk.asked_for() == {FIRST}


def test_a_run_that_dies_again_and_again_is_set_aside(desk: Desk, lab: Lab):
    written(lab.nas, FIRST)
    desk.instance.add_dynamic_partitions("recordings", [FIRST])
    desk.mark(Mark(FIRST, "retried"))
    attempts = []
    for _ in range(4):
        desk.run_that_dies(FIRST)
        told = desk.found()
        attempts.append(read_histories(desk.instance)[FIRST].attempts)

    assert attempts == [1, 2, 3, 3]
    assert (told["arrivals"], told["quarantined_now"]) == (0, 1)


def test_what_became_of_a_recording_while_the_sources_were_read_counts(
    desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    for rec_id in (FIRST, SECOND):
        written(lab.nas, rec_id)
    desk.mark(Mark(SECOND, "failed", "the digest is wrong"))
    read = module.reconcile

    def slowly(*args: Any, **options: Any):
        found = read(*args, **options)

        def standings():
            yield from list(found.standings)
            desk.mark(Mark(FIRST, "quarantined", "withdrawn", by="someone@desk"))
            launch(lab.config, desk.instance, SECOND)

        return replace(found, standings=standings())

    monkeypatch.setattr(module, "reconcile", slowly)
    told = desk.found()

    assert (told["arrivals"], told["quarantined_now"]) == (0, 0)
    assert desk.arrivals("nas_recording", FIRST) == []
    assert not read_histories(desk.instance)[SECOND].is_held


def test_a_source_that_hangs_is_waited_for_once(desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    for rec_id in (FIRST, SECOND, THIRD):
        written(lab.nas, rec_id)
    written(lab.usb, FOURTH)
    asked = []

    def hanging(context: Any, source: Any, place: Any, rec_id: str, **periods: float):
        asked.append(rec_id)
        if source.name == "nas":
            raise SourceUnavailable("it gave nothing for 60 s", recording=rec_id, place=source.name)
        return look_again(context, source, place, rec_id, **periods)

    monkeypatch.setattr(rearrivals, "look_again", hanging)
    told = desk.found()

    assert asked == [FIRST, FOURTH]
    assert told["arrivals"] == 1
    assert "gave nothing" in told["attention"][THIRD]["reason"]


@pytest.mark.parametrize("is_whole", [False, True])
def test_an_upload_that_broke_off_when_the_drive_was_pulled_is_not_taken_for_the_recording(
    lab: Lab, instance: dg.DagsterInstance, is_whole: bool
):
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= {"quiet_period": 0, "reconstruct_after_bucket": 0}
    lab.config.write_text(yaml.safe_dump(profile))
    desk = Desk(lab, instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("usb_recording", partition=FIRST))
    files = {path: path.encode() for path in PATHS}
    lab.raw.create(raw_key(FIRST, PATHS[1]), files[PATHS[1]])
    if is_whole:
        lab.raw.create(raw_key(FIRST, PATHS[0]), files[PATHS[0]])
        lab.raw.create(raw_key(FIRST, "manifest.json"), json.dumps(manifest_of(FIRST, files)).encode())

    told = desk.found()

    assert len(desk.arrivals("r2_recording", FIRST)) == told["arrivals"] == is_whole
    assert is_whole or "was seen on usb" in told["attention"][FIRST]["reason"]


def test_a_recording_that_may_still_be_copied_waits(desk: Desk, lab: Lab):
    written(lab.nas, FIRST, manifest=False, age_s=86_400)

    told = desk.found()

    assert told["arrivals"] == 0
    assert "without a manifest for" in told["attention"][FIRST]["reason"]
    assert desk.instance.get_dynamic_partitions("recordings") == [OLD]


def test_one_night_reports_only_so_many_and_says_how_many_are_left(
    desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    for rec_id in (FIRST, SECOND, THIRD):
        written(lab.nas, rec_id)
    monkeypatch.setattr(module, "ARRIVALS_AT_MOST", 2)

    told = desk.found()

    assert (told["arrivals"], told["arrivals_left"]) == (2, 1)
    assert desk.asked_for() == {FIRST, SECOND}
    assert desk.found()["arrivals"] == 1
    assert desk.asked_for() == {THIRD}


def test_a_half_is_shown_as_one_of_two_nodes(desk: Desk, lab: Lab):
    files = {path: path.encode() for path in PATHS}
    whole = manifest_of(FIRST, files, node=None) | {"nodes": {"green-mantis": ["camera_a"], "green-motor": ["mic"]}}
    write_recording(lab.nas, FIRST, {PATHS[0]: files[PATHS[0]]}, manifest=whole, node=None)
    launch(lab.config, desk.instance, FIRST)

    told = desk.found()

    assert (told["partial"], told["drifted"], told["arrivals"]) == (1, 0, 0)
    assert "1 of 2 nodes; missing: green-motor" in told["attention"][FIRST]["reason"]


def test_all_is_well_where_everything_is_registered(desk: Desk, lab: Lab):
    written(lab.nas, FIRST)
    written(lab.usb, SECOND)
    launch(lab.config, desk.instance, FIRST, SECOND)

    result = desk.reconcile()

    verdicts = checks(result)
    assert set(verdicts) == {
        "nothing_lost",
        "nothing_drifted",
        "everything_registered",
        "nothing_quarantined",
        "sources_available",
    }
    assert all(one.passed for one in verdicts.values())


def test_lost_bytes_old_backlog_and_an_absent_drive_fail_their_checks(desk: Desk, lab: Lab):
    row = lab.data.ingest(source_dir=written(lab.nas, FIRST)).recording
    assert row is not None
    lab.data.register_recording(
        recording_hash="ab" * 32,
        start_time=row.start_time,
        duration=row.duration,
        participant_ids=[],
        device_info={},
        metadata={**(row.metadata or {}), "manifest_recording_id": SECOND},
    )
    (written(lab.nas, THIRD) / "session.lock").touch()
    shutil.rmtree(lab.usb)

    result = desk.reconcile()

    verdicts = checks(result)
    failed = {name: one.severity for name, one in verdicts.items() if not one.passed}
    assert failed == {
        "nothing_lost": dg.AssetCheckSeverity.ERROR,
        "everything_registered": dg.AssetCheckSeverity.WARN,
        "sources_available": dg.AssetCheckSeverity.WARN,
    }
    assert SECOND in told_in(verdicts["nothing_lost"], "found")
    assert THIRD in told_in(verdicts["everything_registered"], "found")
    assert "usb" in told_in(verdicts["sources_available"], "found")


def test_nothing_it_leaves_behind_names_a_participant(desk: Desk, lab: Lab):
    written(lab.nas, FIRST, participant="Aria Lin")
    lab.data.ingest(source_dir=written(lab.usb, SECOND, participant="Aria Lin"))

    result = desk.reconcile()

    told = [str(record) for record in desk.instance.all_logs(result.run_id)]
    assert told
    assert "Aria" not in "".join(told)


def test_it_runs_every_night_with_the_catalog(lab: Lab):
    definitions = build_definitions(None, lab.config)
    schedule = nightly_schedule(load_profile(None, lab.config))

    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert nightly_schedule(load_profile("r2-test")).default_status == dg.DefaultScheduleStatus.STOPPED
    selected = definitions.resolve_job_def(NIGHTLY_JOB).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == {"reconciliation", "catalog"}


def test_a_waiver_does_not_hide_that_bytes_are_gone():
    waived = History(FIRST, waived=Mark(FIRST, "waived", "a test"))
    twice = (Registered("ab" * 32), Registered("cd" * 32))
    tally = Tally(24.0)

    for standing in (Standing(FIRST, rows=twice[:1]), Standing(SECOND, stored=True, marked=True, rows=twice)):
        tally.count(Case(standing, waived, look_ahead(standing, waived)))

    assert (list(tally.lost), list(tally.drifted)) == ([FIRST], [])
    assert [line.state for line in tally.worst()] == ["lost"]
