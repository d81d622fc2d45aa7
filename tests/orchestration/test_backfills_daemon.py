"""Every way of launching an ingest of many recordings, each to its end under a real daemon.

They are all launched at once, since the daemon looks for backfills only every half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.orchestration.dev import Dev
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.orchestration.partitions import RECORDING, recordings
from ursa_pipelines.orchestration.reconciliation import NIGHTLY_JOB

SECONDS = 300.0


def some(day: int) -> list[str]:
    return [f"rec_202605{day:02}_19562{digit}_b1dd" for digit in range(3)]


ARRIVED, SELECTED, NAMED = some(20), some(21), some(22)
MISSED = "rec_20260523_195620_b1dd"
BAD = {ARRIVED[1], NAMED[1]}
OK, RED = dg.AssetPartitionStatus.MATERIALIZED, dg.AssetPartitionStatus.FAILED


@dataclass(frozen=True)
class Launched:
    """A running Dagster, and what was launched in it."""

    directory: Path
    dev: Dev
    instance: dg.DagsterInstance
    selected: str
    command: subprocess.Popen[str]

    def colours(self, *rec_ids: str) -> dict[str, Any]:
        """What the asset's page shows of partitions."""
        there = self.instance.get_dynamic_partitions("recordings")
        asked = [rec_id for rec_id in rec_ids if rec_id in there]
        return dict(self.instance.get_status_by_partition(RECORDING, asked, recordings) or {}) if asked else {}

    def wait_for_colours(self, expected: dict[str, Any]) -> None:
        def are_so() -> bool:
            return self.colours(*expected) == expected

        self.dev.wait(f"the colours {expected}", are_so, seconds=SECONDS)

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        wanted = dg.RunsFilter(tags={name.replace("_", "/"): value for name, value in tags.items()})
        return [record.dagster_run for record in self.instance.get_run_records(wanted)]

    def partitions_of(self, run: dg.DagsterRun) -> list[str]:
        """The partitions that a run covered."""
        if key := run.tags.get("dagster/partition"):
            return [key]
        order = list(self.instance.get_dynamic_partitions("recordings"))
        first, last = (run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
        return order[order.index(first) : order.index(last) + 1]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """`ursa dev` with its sensors on, but for that of the drive `usb`, and all ways launched but the nightly one."""
    directory = tmp_path_factory.mktemp("dev")
    dev = Dev(directory)
    try:
        dev.wait("Dagster", dev.is_up)
        for sensor in ("nas_sensor", "usb_sensor"):
            dev.switch(sensor, on=False)
        for rec_id in ARRIVED:
            write(directory / ".ursa" / "nas", rec_id)
        for rec_id in (*SELECTED, *NAMED, MISSED):
            write(directory / ".ursa" / "usb", rec_id)
        dev.switch("nas_sensor", on=True)
        for rec_id in SELECTED:
            dev.press_add_partition(rec_id)
        selected = dev.press_backfill([SELECTED[0], SELECTED[2]])
        arguments = ("--url", f"http://127.0.0.1:{dev.port}", "--yes", "--json")
        command = start(directory, "backfill", *NAMED, *arguments)
        with command, dg.DagsterInstance.from_config(str(directory / ".ursa" / "dagster")) as instance:
            try:
                yield Launched(directory, dev, instance, selected, command)
            finally:
                command.kill()
    finally:
        dev.end()
        open_store(directory / ".ursa").release()


def write(source: Path, rec_id: str) -> None:
    made = write_recording(source.parent / "written", rec_id, {"camera_a/seg_0000.mp4": rec_id.encode() * 100})
    if rec_id in BAD:
        (made / "camera_a/seg_0000.mp4").write_bytes(rec_id.upper().encode() * 100)
    made.rename(source / rec_id)


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ursa")), *arguments],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_recordings_that_arrive_together_become_one_backfill_in_which_only_the_bad_one_is_red(launched: Launched):
    good, bad, other = ARRIVED

    launched.wait_for_colours({good: OK, bad: RED, other: OK})

    runs = [run for run in launched.runs(ursa_trigger="arrival") if good in launched.partitions_of(run)]
    assert runs
    (backfill,) = {run.tags["dagster/backfill"] for run in runs}
    together = launched.runs(dagster_backfill=backfill)
    assert {key for run in together for key in launched.partitions_of(run)} >= set(ARRIVED)


def test_a_selection_in_the_ui_is_ingested_and_nothing_between(launched: Launched):
    first, last = SELECTED[0], SELECTED[2]

    status = launched.dev.wait("the end", lambda: launched.dev.has_ended(launched.selected), seconds=SECONDS)

    assert status == "COMPLETED_SUCCESS"
    runs = launched.runs(dagster_backfill=launched.selected)
    assert sorted(key for run in runs for key in launched.partitions_of(run)) == [first, last]
    assert launched.colours(first, last) == {first: OK, last: OK}


def test_the_command_launches_a_backfill_in_the_running_dagster_and_tells_what_came_of_it(launched: Launched):
    printed, errors = launched.command.communicate(timeout=SECONDS)

    assert launched.command.returncode == 1, errors
    document = json.loads(printed)
    told = {one["rec_id"]: one for one in document["items"]}
    assert {rec_id: one["status"] for rec_id, one in told.items()} == dict(
        zip(NAMED, ("OK", "FAIL", "OK"), strict=True)
    )
    assert "camera_a/seg_0000.mp4: its SHA-256 is" in told[NAMED[1]]["reason"]
    runs = launched.runs(dagster_backfill=document["summary"]["backfill"])
    assert sorted({key for run in runs for key in launched.partitions_of(run)}) == NAMED
    assert {run.tags["ursa/trigger"] for run in runs} == {"backfill"}
    assert all("@" in run.tags["ursa/by"] for run in runs)


def test_what_the_sensors_missed_is_ingested_after_the_nightly_reconciliation(launched: Launched):
    dev = launched.dev

    def is_found() -> bool:
        # A recording that has just been copied has yet to be quiet, as it would be at night.
        assert dev.wait("the end", lambda: dev.has_come_to(night, "SUCCESS", "FAILURE"), seconds=SECONDS) == "SUCCESS"
        return MISSED in launched.instance.get_dynamic_partitions("recordings")

    night = dev.press_job(NIGHTLY_JOB)
    while not is_found():
        night = dev.press_job(NIGHTLY_JOB)

    launched.wait_for_colours({MISSED: OK})


def test_the_command_refuses_a_dagster_that_keeps_its_runs_elsewhere(launched: Launched, tmp_path: Path):
    command = start(tmp_path, "backfill", MISSED, "--url", f"http://127.0.0.1:{launched.dev.port}", "--yes")

    _, errors = command.communicate(timeout=SECONDS)

    assert command.returncode == 3
    assert "the Dagster there keeps its runs elsewhere" in errors
    open_store(tmp_path / ".ursa").release()


def test_the_command_does_it_in_its_own_process_where_no_webserver_is_up(launched: Launched):
    rec_id = "rec_20260524_195620_b1dd"
    write(launched.directory / ".ursa" / "usb", rec_id)

    command = start(launched.directory, "backfill", rec_id, "--in-process", "--yes")
    printed, errors = command.communicate(timeout=SECONDS)

    assert command.returncode == 0, errors
    assert "1 done" in printed
    # The automation takes a recording that was launched by hand once more, and finds all in place.
    launched.wait_for_colours({rec_id: OK})
    assert any(launched.partitions_of(run) == [rec_id] for run in launched.runs(ursa_trigger="backfill"))
