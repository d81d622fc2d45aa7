"""Fault 11: drives that hang, as a NAS does whose cable was pulled. Whoever waits for one gives up in time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from tests.faults.mounts import Fault, Hangs, Mount
from tests.faults.on_a_drive import (
    BESIDE_THE_SEGMENTS,
    CAMERA,
    FILES,
    HASHED_OR_SENT,
    IN_THE_SECOND_PART,
    LAST_REC,
    MIC,
    OTHER_REC,
    REC,
    SMALL_FILES,
    interface,
    open_uploads,
    profile_of,
    require_nothing_registered,
)
from tests.faults.on_a_drive import drive as drive
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot

_T = TypeVar("_T")

_INGEST = """
import sys
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import UrsaError
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
try:
    data.ingest(source_dir=sys.argv[2])
except UrsaError as error:
    print(type(error).__name__)
"""


@HASHED_OR_SENT
@pytest.mark.parametrize(
    ("kind", "path", "offset"),
    [("read", CAMERA, IN_THE_SECOND_PART), ("open", MIC, 0)],
    ids=["read in parts", "opened"],
)
def test_fault_11_a_drive_that_hangs_is_given_up_while_a_file_is(
    lab: Lab, drive: Mount, kind: str, path: str, offset: int, manifest: bool
):
    write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest)
    for rec_id in (OTHER_REC, LAST_REC):
        write_recording(lab.nas, rec_id, {MIC: rec_id.encode()}, manifest=manifest)
    before = snapshot(lab.nas)
    hang = drive.fault = Hangs(f"{REC}/{path}", kind=kind, offset=offset)
    data = interface(lab, read_timeout=2)
    directories = [drive.point / rec_id for rec_id in (REC, OTHER_REC, LAST_REC)]

    first, *others = _soon(hang, partial(data.ingest_many, directories))

    assert (first.state, first.error_type, first.retryable) == ("failed", "SourceUnavailable", True)
    assert path in first.reason
    assert [item.status for item in others] == ["OK", "OK"]
    require_nothing_registered(lab, without=path)
    hang.released.set()
    drive.fault = Fault()
    assert interface(lab).ingest_many([drive.point / REC])[0].status == "OK"
    assert snapshot(lab.nas) == before
    lab.check_invariants()


def test_fault_11_the_upload_of_a_file_whose_read_hangs_is_ended(lab: Lab, drive: Mount):
    """No record tells of it, so that nothing would find its parts once this process has ended."""
    write_recording(lab.nas, REC, FILES)
    hang = drive.fault = Hangs(f"{REC}/{CAMERA}", offset=IN_THE_SECOND_PART)

    (item,) = _soon(hang, partial(interface(lab, read_timeout=2).ingest_many, [drive.point / REC]))

    assert item.error_type == "SourceUnavailable"
    assert open_uploads(lab) == []
    hang.released.set()


@HASHED_OR_SENT
def test_fault_11_a_process_ends_while_its_read_hangs(lab: Lab, drive: Mount, manifest: bool):
    write_recording(lab.nas, REC, FILES, manifest=manifest)
    hang = drive.fault = Hangs(f"{REC}/{CAMERA}", offset=IN_THE_SECOND_PART)
    command = [sys.executable, "-c", _INGEST, str(profile_of(lab, read_timeout=2)), str(drive.point / REC)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert hang.reached.is_set()
    assert not hang.released.is_set()
    assert (ended.stdout.strip(), ended.returncode) == ("SourceUnavailable", 0), ended.stderr
    hang.released.set()
    drive.fault = Fault()
    assert interface(lab).ingest(source_dir=drive.point / REC).outcome == "created"
    lab.check_invariants()


@BESIDE_THE_SEGMENTS
def test_fault_11_a_drive_is_given_up_that_hangs(lab: Lab, drive: Mount, kind: str, path: str, nth: int):
    write_recording(lab.nas, REC, SMALL_FILES, participant="A")
    write_recording(lab.nas, OTHER_REC, {MIC: b"other audio"})
    hang = drive.fault = Hangs(path, kind=kind, nth=nth)
    data = interface(lab, read_timeout=2)

    first, other = _soon(hang, partial(data.ingest_many, [drive.point / rec_id for rec_id in (REC, OTHER_REC)]))

    assert (first.state, first.error_type, first.retryable) == ("failed", "SourceUnavailable", True)
    assert other.status == "OK"
    require_nothing_registered(lab)
    hang.released.set()


def _soon(hang: Hangs, call: Callable[[], _T]) -> _T:
    """What `call` returns although something hangs; a failure, not a hanging test, if it waits for that."""
    outcome: list[_T] = []
    thread = threading.Thread(target=lambda: outcome.append(call()), daemon=True)
    thread.start()
    thread.join(60)
    waits = thread.is_alive()
    if waits:
        hang.released.set()
        thread.join(60)
    assert hang.reached.is_set()
    assert not waits, "it waits for what hangs"
    return outcome[0]
