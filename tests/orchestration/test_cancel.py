"""A run that is cancelled in the UI stops in the middle of a file, and the next one goes on there."""

from __future__ import annotations

from pathlib import Path

from tests.orchestration.dev import REC, Dev
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface

SIZE = 160 * 1024**2
PART_SIZE = 16 * 1024**2


def test_fault_6_a_cancelled_run_registers_nothing_and_the_next_one_sends_only_the_rest(dev: Dev, tmp_path: Path):
    dev.wait("Dagster", dev.is_up)
    data = DataInterface("local")
    data.set_bandwidth("20MB/s")
    large = {"camera_a/seg_0000.mp4": bytes(range(256)) * (SIZE // 256)}
    write_recording(tmp_path / "copied", REC, large).rename(tmp_path / ".ursa" / "nas" / REC)
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
    again = dev.press_materialize()

    assert dev.end_of(again) == "SUCCESS"
    assert dev.metadata_of(again)["bytes_uploaded"] == SIZE - unfinished.stored_bytes
    assert [row.rec_id for row in data.list_recordings()] == [REC]
    assert data.unfinished_uploads() == []
