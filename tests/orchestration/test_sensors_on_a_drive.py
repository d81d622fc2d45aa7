"""A source that hangs, as a NAS does whose cable was pulled, holds up neither its sensor nor its other recordings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.faults.mounts import Fails, Fault, Hangs, Mount, mounted
from tests.lab import Lab
from tests.orchestration.ticks import arrivals, cursor_of, later, quarantined, tick, told
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.orchestration.sensors import nas_sensor
from ursa_pipelines.profiles import load_profile

FIRST, SECOND, THIRD, FOURTH = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}


@pytest.fixture
def drive(lab: Lab, tmp_path: Path) -> Iterator[Mount]:
    """The lab's `nas`, mounted."""
    with mounted(lab.nas, tmp_path / "drive") as drive:
        yield drive


@pytest.fixture
def config(lab: Lab, drive: Mount) -> Path:
    """The lab's profile with its `nas` on the drive, and little patience."""
    profile = yaml.safe_load(lab.config.read_text())
    profile["sources"][0]["path"] = str(drive.point)
    profile["settings"]["read_timeout"] = 0.5
    config = lab.config.with_name("drive.yaml")
    config.write_text(yaml.safe_dump(profile))
    return config


class HangsAt(Fault):
    """Every look into these directories hangs until it is released."""

    def __init__(self, *directories: str) -> None:
        self.each = [Hangs(directory, kind="list") for directory in directories]

    def at(self, access):
        for one in self.each:
            one.at(access)

    def release(self) -> None:
        for one in self.each:
            one.released.set()


def test_a_source_that_hangs_fails_the_tick(lab: Lab, drive: Mount, config: Path, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    sensor = nas_sensor("nas", load_profile(None, config))
    hang = drive.fault = Hangs("", kind="list")
    threads = threading.active_count()

    for problem in ("it gave nothing for 0.5 s", "it has hung for"):
        with pytest.raises(SourceUnavailable, match=problem):
            tick(lab, instance, config=config, sensor=sensor)

    assert hang.reached.is_set()
    assert threading.active_count() <= threads + 2, "every tick leaves a thread behind"
    hang.released.set()
    drive.fault = Fault()
    assert list(_soon_arrivals(lab, instance, config, sensor)) == [FIRST]


def test_a_directory_that_hangs_waits_and_the_others_arrive(
    lab: Lab, drive: Mount, config: Path, instance: dg.DagsterInstance
):
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)
    sensor = nas_sensor("nas", load_profile(None, config))
    hang = drive.fault = HangsAt(f"{SECOND}/mic")

    first = tick(lab, instance, config=config, sensor=sensor)
    second = tick(lab, instance, first, config=config, sensor=sensor)

    assert list(arrivals(first)) == [FIRST, THIRD]
    assert f"{SECOND}: the drive gave nothing: it gave nothing for 0.5 s" in told(first)
    assert f"{SECOND}: the drive gave nothing: it has hung for" in told(second)
    hang.release()
    drive.fault = Fault()
    assert list(_soon_arrivals(lab, instance, config, sensor, second)) == [SECOND]


def test_after_two_directories_that_hang_no_other_is_looked_at(
    lab: Lab, drive: Mount, config: Path, instance: dg.DagsterInstance
):
    for rec_id in (FIRST, SECOND, THIRD, FOURTH):
        write_recording(lab.nas, rec_id, FILES)
    sensor = nas_sensor("nas", load_profile(None, config))
    hang = drive.fault = HangsAt(f"{FIRST}/mic", f"{SECOND}/mic", f"{THIRD}/mic")

    first = tick(lab, instance, config=config, sensor=sensor)
    second = tick(lab, instance, first, config=config, sensor=sensor)

    assert list(cursor_of(first)["waiting"]) == [FIRST, SECOND]
    assert arrivals(first) == {}
    assert "2 other looks hang, so that no more are looked at now" in told(first)
    assert list(arrivals(second)) == [FOURTH]
    hang.release()


def test_a_drive_that_fails_makes_nothing_arrive_or_be_quarantined(
    lab: Lab, drive: Mount, config: Path, instance: dg.DagsterInstance
):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance, config=config)
    write_recording(lab.nas, SECOND, FILES)
    drive.fault = FailsBelow()

    waiting = tick(lab, instance, first, config=config)
    day_after = tick(lab, instance, later(waiting, 90_000), config=config)

    assert list(cursor_of(waiting)["waiting"]) == [SECOND]
    assert arrivals(waiting) == arrivals(day_after) == quarantined(day_after) == {}
    drive.fault = Fault()
    assert list(arrivals(tick(lab, instance, day_after, config=config))) == [SECOND]


class FailsBelow(Fails):
    """Whatever lies in a recording cannot be read."""

    def __init__(self) -> None:
        super().__init__(5)

    def at(self, access):
        return super().at(access) if access.path.startswith("rec_") and access.kind != "stat" else None


def _soon_arrivals(
    lab: Lab,
    instance: dg.DagsterInstance,
    config: Path,
    sensor: dg.SensorDefinition,
    after: dg.SensorResult | None = None,
) -> dict[str | None, str]:
    """What arrives once the thread that hung has ended."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if found := arrivals(after := tick(lab, instance, after, config=config, sensor=sensor)):
                return found
        except SourceUnavailable:
            pass
        assert time.monotonic() < deadline
