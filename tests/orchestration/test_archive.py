"""Old recordings taken off the instance: what may go, that nothing else is touched, and that none is taken for new."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from tests.lab import Lab
from tests.orchestration.test_reconciliation import Desk
from tests.orchestration.ticks import arrivals, tick
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import Retryable
from ursa_pipelines.orchestration import archive as module
from ursa_pipelines.orchestration.archive import archive, find_old
from ursa_pipelines.orchestration.decisions import retry
from ursa_pipelines.orchestration.partitions import RECORDING, note_archived
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.orchestration.telling import materialization

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
TOMORROW = datetime.now(UTC).date() + timedelta(days=2)


@pytest.fixture
def desk(lab: Lab, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Two recordings that arrived, were asked for, and are registered; what was registered just now counts as old."""
    monkeypatch.setattr(module, "LEAST_AGE", timedelta(days=-3))
    desk = Desk(lab, instance)
    for rec_id in (FIRST, SECOND):
        write_recording(lab.nas, rec_id, {path: body + rec_id.encode() for path, body in FILES.items()})
    tick(lab, instance)
    assert desk.asked_for() == {FIRST, SECOND}
    for item in lab.data.ingest_many([lab.nas / FIRST, lab.nas / SECOND]):
        # As the run tells it that the automation launches.
        instance.report_runless_asset_event(materialization(item, lab.raw.name))
    assert desk.asked_for() == set()
    return desk


def due(desk: Desk) -> list[str]:
    return [one.rec_id for one in find_old(desk.lab.data, desk.instance, TOMORROW) if not one.kept]


def archived(desk: Desk, *rec_ids: str) -> list[str]:
    return list(archive(desk.lab.data, desk.instance, rec_ids))


def after_each_event(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What the automation asks for, which ticks after each event before whoever reported it gets on."""
    seen: list[set[str]] = []
    report = dg.DagsterInstance.report_runless_asset_event

    def then_tick(self: dg.DagsterInstance, event: dg.AssetMaterialization) -> None:
        report(self, event)
        seen.append(desk.asked_for())

    monkeypatch.setattr(dg.DagsterInstance, "report_runless_asset_event", then_tick)
    return seen


def partitions(desk: Desk) -> set[str]:
    return set(desk.instance.get_dynamic_partitions("recordings"))


def test_what_is_archived_is_off_the_pages_and_in_nobodys_way(desk: Desk, lab: Lab):
    before, on_the_drive = lab.everything(), snapshot(lab.nas)

    assert due(desk) == [FIRST, SECOND]
    assert archived(desk, FIRST, SECOND) == [FIRST, SECOND]

    assert partitions(desk).isdisjoint({FIRST, SECOND})
    # As in a new process, which knows only what the instance tells it.
    assert arrivals(tick(lab, desk.instance)) == {}
    assert "r2_recording" not in {
        event.asset_key.to_user_string() for event in tick(lab, desk.instance, name="r2_sensor").asset_events
    }
    told = desk.found()
    assert (told["registered"], told["arrivals"], told["backlog"], told["lost"]) == (2, 0, 0, 0)
    assert desk.asked_for() == set()
    assert partitions(desk).isdisjoint({FIRST, SECOND})
    assert (lab.everything(), snapshot(lab.nas)) == (before, on_the_drive)
    assert due(desk) == []


def test_a_directory_that_changes_brings_its_recording_back(desk: Desk, lab: Lab):
    archived(desk, FIRST, SECOND)
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})

    assert list(arrivals(tick(lab, desk.instance))) == [FIRST]

    assert FIRST in partitions(desk) and SECOND not in partitions(desk)
    assert desk.asked_for() == {FIRST}
    assert desk.asked_for() == set()


def test_an_arrival_is_taken_up_by_an_automation_that_ticks_before_the_sensor_is_done(
    desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    archived(desk, FIRST)
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})
    seen = after_each_event(desk, monkeypatch)

    assert list(arrivals(tick(lab, desk.instance))) == [FIRST]

    assert seen == [{FIRST}]


def test_an_arrival_while_others_are_archived_is_taken_up(desk: Desk, lab: Lab):
    going = archive(lab.data, desk.instance, [FIRST, SECOND])
    assert next(going) == FIRST
    write_recording(lab.nas, SECOND, {**FILES, "eeg_4559/seg_0000.edf": b"late"})
    assert list(arrivals(tick(lab, desk.instance))) == [SECOND]

    assert list(going) == [SECOND]

    assert desk.asked_for() == {SECOND}
    assert SECOND in partitions(desk)


def test_what_a_run_has_since_it_was_found_keeps_its_partition(desk: Desk):
    found = due(desk)
    desk.instance.create_run_for_job(
        desk.definitions.resolve_job_def("ingest"),
        tags={"dagster/partition": FIRST},
        asset_selection={RECORDING},
        status=dg.DagsterRunStatus.STARTED,
    )

    assert archived(desk, *found) == [SECOND]


def test_a_change_that_no_sensor_sees_comes_back_by_the_reconciliation(
    desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    archived(desk, FIRST)
    shutil.rmtree(lab.nas / FIRST)
    write_recording(lab.nas, FIRST, {path: body + FIRST.encode() for path, body in (*FILES.items(), ("x/s.bin", b""))})
    seen = after_each_event(desk, monkeypatch)

    assert desk.found()["arrivals"] == 1

    assert seen == [{FIRST}]
    assert FIRST in partitions(desk)
    assert desk.asked_for() == set()


def test_a_retry_by_hand_brings_it_back(desk: Desk, lab: Lab):
    archived(desk, FIRST)

    (decided,) = retry(lab.data, desk.instance, [FIRST])

    assert not decided.problem
    assert FIRST in partitions(desk)
    assert desk.asked_for() == {FIRST}


def test_what_needs_somebody_keeps_its_partition(desk: Desk, lab: Lab):
    desk.mark(Mark(SECOND, "waived", "no more will come"))
    write_recording(lab.nas, THIRD, FILES)
    tick(lab, desk.instance)

    told = {one.rec_id: one.kept for one in find_old(lab.data, desk.instance, TOMORROW)}

    assert (told[FIRST], told[SECOND], told[THIRD]) == ("", "quarantined or waived", "not registered")
    assert [one.rec_id for one in find_old(lab.data, desk.instance, datetime(2026, 5, 20).date())] == []
    # Something has happened to it since it was found.
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})
    assert list(arrivals(tick(lab, desk.instance))) == [FIRST]
    assert archived(desk, FIRST, SECOND, THIRD) == []


def test_one_of_today_is_not_looked_for(desk: Desk, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LEAST_AGE", timedelta(days=30))

    with pytest.raises(ValueError, match="30 days ago"):
        list(find_old(lab.data, desk.instance, datetime.now(UTC).date()))
    # It was recorded long ago, and registered today.
    assert {one.kept for one in find_old(lab.data, desk.instance, datetime(2026, 6, 20).date())} >= {
        "registered since then"
    }


def test_nothing_is_archived_while_a_backfill_is_open(desk: Desk, lab: Lab):
    backfill = PartitionBackfill("abcdefgh", BulkActionStatus.REQUESTED, False, {}, time.time())
    desk.instance.add_backfill(backfill)

    with pytest.raises(Retryable, match="abcdefgh"):
        archived(desk, FIRST)

    assert FIRST in partitions(desk)
    desk.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert archived(desk, FIRST) == [FIRST]


def test_one_that_was_interrupted_goes_on(desk: Desk, lab: Lab):
    note_archived(desk.instance, [FIRST])

    assert due(desk) == [FIRST, SECOND]
    assert arrivals(tick(lab, desk.instance)) == {}
    assert archived(desk, *due(desk)) == [FIRST, SECOND]
    assert arrivals(tick(lab, desk.instance)) == {}


def test_a_recording_whose_directory_left_the_source_stays_archived(desk: Desk, lab: Lab, tmp_path: Path):
    archived(desk, FIRST, SECOND)
    (lab.nas / FIRST).rename(tmp_path / FIRST)

    assert arrivals(tick(lab, desk.instance)) == {}
    told = desk.found()

    assert (told["registered"], told["arrivals"]) == (2, 0)
