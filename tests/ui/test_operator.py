"""What an operator does in the UI, in a real browser: one story, since each part of it needs the one before.

Every step leaves a picture in `artifacts/ui`, or where URSA_SCREENSHOTS says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.orchestration.dev import Dev
from tests.recordings_on_disk import write_recording
from tests.ui.pages import SECONDS, Pages
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import ContentMismatch

FIRST = "rec_20260520_195628_b1dd"
GOOD = ("rec_20260521_101544_2c9e", "rec_20260522_160312_77aa")
DAMAGED = "rec_20260522_090145_d41f"
LATER = "rec_20260524_083000_aa01"

_SENSORS = """query ($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) {
  ... on Sensors { results { id sensorState { ticks(limit: 1) { status } } } } } }"""
_STOP = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
_ADD = """mutation ($repository: RepositorySelector!, $key: String!) { addDynamicPartition(
  repositorySelector: $repository, partitionsDefName: "recordings", partitionKey: $key) { __typename } }"""
_PARTITIONS = """query { assetNodeOrError(assetKey: {path: ["recording"]}) {
  ... on AssetNode { partitionKeys } } }"""
_REPOSITORY = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "ursa_pipelines.orchestration.local",
}


def test_an_operator_ingests_mends_and_automates_in_the_browser(dev: Dev, pages: Pages, tmp_path: Path):
    nas, usb = tmp_path / ".ursa" / "nas", tmp_path / ".ursa" / "usb"
    _stop_sensors(dev)
    for number, rec_id in enumerate((FIRST, GOOD[0], DAMAGED, GOOD[1])):
        write_recording(nas, rec_id, _files(number), participant="Aria Lin")
        dev.ask(_ADD, repository=_REPOSITORY, key=rec_id)
    segment = nas / DAMAGED / "mic" / "seg_0000.wav"
    attested = segment.read_bytes()
    segment.write_bytes(b"x" + attested[1:])

    with pages.step("1-asset-graph"):
        pages.open_graph("recording")
        for name in ("sources", "ingest", "nas_recording", "usb_recording", "r2_recording", "recording"):
            pages.expect_text(name)

    with pages.step("2-launch-one"):
        pages.open_partition(FIRST)
        pages.expect_state(FIRST, "missing")
        pages.open_launch_dialog()
    with pages.step("2-turned-green"):
        pages.launch("Launch 1 run")
        pages.expect_state(FIRST, "materialized")
    with pages.step("2-metadata"):
        pages.open_partition(FIRST)
        told = pages.metadata("recording_hash")
        size = sum(map(len, _files(0).values()))
        assert (told["files"], told["bytes"], told["files_uploaded"]) == ("2", str(size), "2")
        assert float(told["MB/s"]) > 0
    with pages.step("2-plots"):
        pages.open_overview("recording")
        assert pages.is_drawn(pages.plot("bytes"))

    with pages.step("3-launch-backfill"):
        pages.open_partition(DAMAGED)
        pages.open_launch_dialog()
        pages.choose("Missing", 3)
    with pages.step("3-one-is-red"):
        pages.launch("Launch backfill")
        pages.expect_state(DAMAGED, "failed")
        for rec_id in GOOD:
            pages.expect_state(rec_id, "materialized")
        pages.expect_count("failed", 1)
        pages.expect_count("materialized", 3)
    with pages.step("3-red-partition"):
        pages.open_partition(DAMAGED)
        pages.expect_text("failed, and did not materialize")
    with pages.step("3-remedy"):
        pages.follow_to_failed_run()
        pages.expect_run("Failure")
        pages.expect_text(ContentMismatch.remedy)
    with pages.step("3-mark"):
        pages.open_event(DAMAGED)
        pages.expect_text(ContentMismatch.remedy)

    segment.write_bytes(attested)
    with pages.step("4-re-executed"):
        pages.open_partition(DAMAGED)
        pages.follow_to_failed_run()
        pages.re_execute_from_failure()
        pages.expect_run("Success")
    with pages.step("4-all-green"):
        pages.open_partition(DAMAGED)
        pages.expect_state(DAMAGED, "materialized")
        pages.expect_count("failed", 0)
        pages.expect_count("materialized", 4)

    with pages.step("5-automation"):
        pages.open_automation()
        for sensor in ("ingest_automation", "usb_sensor"):
            pages.switch_on(sensor)
    with pages.step("5-ingested"):
        write_recording(tmp_path / "copied", LATER, _files(9), participant="Aria Lin").rename(usb / LATER)
        _until(dev, "the partition", lambda: LATER in _partitions(dev))
        pages.open_partition(LATER)
        pages.expect_state(LATER, "materialized")
        pages.expect_count("materialized", 5)

    with pages.step("6-reconciliation"):
        pages.materialize("reconciliation", "quarantined")
        told = pages.metadata("quarantined")
        assert (told["registered"], told["failed"], told["quarantined"]) == ("5", "0", "0")
    with pages.step("6-catalog"):
        pages.materialize("catalog", "rows_recordings")
        assert pages.metadata("rows_recordings")["rows_recordings"] == "5"
    with pages.step("6-catalog-plots"):
        drawn = pages.open_markdown("plots").locator("img")
        pages.expect_pictures(drawn)
    with pages.step("6-asset-graph"):
        pages.open_graph("recording")
        pages.expect_text("100% filled")

    rows = DataInterface("local").list_recordings()
    assert sorted(row.rec_id for row in rows) == sorted([FIRST, *GOOD, DAMAGED, LATER])


def _files(number: int) -> dict[str, bytes]:
    return {"camera_a/seg_0000.mp4": b"video%d" % number * 40_000, "mic/seg_0000.wav": b"audio%d" % number * 9_000}


def _stop_sensors(dev: Dev) -> None:
    # On this profile they run from the start; what is launched by hand is to be all that is launched.
    _until(dev, "the code location", dev.is_up)
    for sensor in _sensors(dev):
        dev.ask(_STOP, id=sensor["id"])
    # A tick under way would still report what it finds.
    _until(dev, "the end of the last tick", lambda: not any(_is_ticking(sensor) for sensor in _sensors(dev)))


def _sensors(dev: Dev) -> list[dict[str, Any]]:
    return dev.ask(_SENSORS, repository=_REPOSITORY)["sensorsOrError"]["results"]


def _is_ticking(sensor: dict[str, Any]) -> bool:
    return any(tick["status"] == "STARTED" for tick in sensor["sensorState"]["ticks"])


def _partitions(dev: Dev) -> list[str]:
    return dev.ask(_PARTITIONS)["assetNodeOrError"]["partitionKeys"]


def _until(dev: Dev, what: str, holds: Callable[[], bool]) -> None:
    dev.deadline = time.monotonic() + SECONDS
    dev.wait(what, holds)
