"""`ursa dev` as an operator has it: daemon, webserver and sensors, a recording that arrives, and the end of it all."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from tests.orchestration.dev import REC, Dev
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface

FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}


def test_a_recording_that_arrives_is_ingested_and_the_end_leaves_nothing_behind(dev: Dev, tmp_path: Path):
    nas = tmp_path / ".ursa" / "nas"
    dev.wait("the directory for recordings", nas.is_dir)
    write_recording(tmp_path / "copied", REC, FILES, participant="Aria Lin").rename(nas / REC)

    (by_sensor,) = dev.wait("the materialization", dev.materialized_by)
    # The UI has no login (fault 79).
    assert dev.listening_on() == {"127.0.0.1"}

    (row,) = DataInterface("local").list_recordings()
    assert row.rec_id == REC
    assert dev.end_of(by_sensor) == "SUCCESS"

    by_hand = dev.press_materialize()

    assert dev.end_of(by_hand) == "SUCCESS"
    assert dev.materialized_by() == [by_hand, by_sensor]
    assert DataInterface("local").list_recordings() == [row]

    with (nas / REC / "mic" / "seg_0001.wav").open("wb") as endless:
        endless.truncate(8 * 1024**3)
    under_way = dev.press_materialize()
    dev.wait("the run's start", lambda: dev.has_come_to(under_way, "STARTED"))
    started_by_it = dev.descendants()
    dev.process.send_signal(signal.SIGTERM)

    assert dev.process.wait(30) == 0
    _, left = psutil.wait_procs(started_by_it, timeout=1)
    assert left == []
    assert not dev.listens()
    assert DataInterface("local").list_recordings() == [row]
