"""`ursa dev` as an operator has it: daemon, webserver and sensors, what arrives, a run that is cancelled, and the end.

One `ursa dev` serves both tests, of which the last one ends it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.orchestration.dev import REC, SECONDS, Dev
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store

FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
LARGE = "rec_20260521_101544_2c9e"
SIZE = 160 * 1024**2
PART_SIZE = 16 * 1024**2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("dev")
        patch.chdir(place)
        patch.delenv("DAGSTER_HOME", raising=False)
        yield place


@pytest.fixture(scope="module")
def dev(place: Path) -> Iterator[Dev]:
    """A running `ursa dev`."""
    dev = Dev(place)
    yield dev
    dev.end()
    open_store(place / ".ursa").release()


@pytest.fixture(autouse=True)
def in_time(dev: Dev) -> None:
    dev.renew_deadline()


def test_fault_6_a_cancelled_run_registers_nothing_and_the_next_one_sends_only_the_rest(dev: Dev, place: Path):
    dev.wait("Dagster", dev.is_up)
    data = DataInterface("local")
    data.set_bandwidth("20MB/s")
    large = {"camera_a/seg_0000.mp4": bytes(range(256)) * (SIZE // 256)}
    write_recording(place / "copied", LARGE, large).rename(place / ".ursa" / "nas" / LARGE)
    (run_id,) = dev.wait("the run", dev.runs)

    def a_part_is_stored() -> bool:
        return any(upload.stored_bytes >= PART_SIZE for upload in data.unfinished_uploads())

    dev.wait("a stored part", a_part_is_stored)
    dev.press_terminate(run_id)

    assert dev.end_of(run_id) == "CANCELED"
    assert data.list_recordings() == []
    (unfinished,) = data.unfinished_uploads()
    assert unfinished.stored_bytes < SIZE

    data.set_bandwidth(None)
    again = dev.press_materialize(LARGE)

    assert dev.end_of(again) == "SUCCESS"
    assert dev.metadata_of(again, LARGE)["bytes_uploaded"] == SIZE - unfinished.stored_bytes
    assert [row.rec_id for row in data.list_recordings()] == [LARGE]
    assert data.unfinished_uploads() == []


def test_a_recording_that_arrives_is_ingested_and_the_end_leaves_nothing_behind(dev: Dev, place: Path):
    nas = place / ".ursa" / "nas"
    dev.wait("the directory for recordings", nas.is_dir)
    write_recording(place / "copied", REC, FILES, participant="Aria Lin").rename(nas / REC)

    (by_sensor,) = dev.wait("the materialization", dev.materialized_by)
    # The UI has no login (fault 79).
    assert dev.listening_on() == {"127.0.0.1"}

    rows = DataInterface("local").list_recordings()
    assert [row.rec_id for row in rows if row.rec_id != LARGE] == [REC]
    assert dev.end_of(by_sensor) == "SUCCESS"

    by_hand = dev.press_materialize()

    assert dev.end_of(by_hand) == "SUCCESS"
    assert dev.materialized_by() == [by_hand, by_sensor]
    assert DataInterface("local").list_recordings() == rows

    with (nas / REC / "mic" / "seg_0001.wav").open("wb") as endless:
        endless.truncate(8 * 1024**3)
    under_way = dev.press_materialize()
    dev.wait("the run's start", lambda: dev.has_come_to(under_way, "STARTED"))
    started_by_it = dev.descendants()
    dev.process.send_signal(signal.SIGTERM)

    assert dev.process.wait(SECONDS) == 0
    _, left = psutil.wait_procs(started_by_it, timeout=60)
    assert left == []
    assert not dev.listens()
    assert DataInterface("local").list_recordings() == rows
