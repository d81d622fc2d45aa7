"""Every number of the list of faults has a test that is named after it, or a reason why there is none.

The list is in `numbers.py`. Tests for numbers that no other module is about are here too.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import figures
from tests.faults.detour import Detour
from tests.faults.numbers import NUMBERS, TESTS, tests_by_number
from tests.faults.proxy import Fault, Hold
from tests.lab import Lab
from tests.recordings_on_disk import write_recording

REC = "rec_20260520_195628_b1dd"
FILES = {"mic/seg_0000.wav": b"audio" * 100, "eeg_4559/seg_0000.edf": b"eeg" * 100}

DECIDED_OTHERWISE: dict[str, str] = {}
"""Numbers without a test of their own, and why."""

_DEV = """
import sys
sys.executable = sys.argv[1]
from ursa_pipelines.cli.dev import run_dev
sys.exit(run_dev("r2-test", int(sys.argv[2])))
"""


def test_every_number_of_the_list_has_a_test_or_a_reason():
    named = tests_by_number()

    assert [number for number in NUMBERS if not named[number] and number not in DECIDED_OTHERWISE] == []
    assert [number for number in named if number not in NUMBERS] == []
    assert [number for number in DECIDED_OTHERWISE if named[number]] == []
    figures.record("numbers", numbers=sum(bool(files) for files in named.values()))
    for number, files in named.items():
        figures.record(f"numbers, {number}", **files)


@pytest.mark.parametrize(
    "held", [r"PUT /raw.*/mic/", r"PUT .*/rec_ids/", r"PUT .*/entries/"], ids=["segment", "claim", "entry"]
)
def test_fault_8b_a_process_that_was_suspended_for_long_adds_nothing_to_what_another_did_meanwhile(
    lab: Lab, detour: Detour, held: str
):
    hold = detour.proxy.fault = Hold(held)
    process = detour.start_ingest(write_recording(lab.nas, REC, FILES, participant="A"))
    try:
        assert hold.reached.wait(60)
        process.send_signal(signal.SIGSTOP)
        other = lab.interface().ingest(source_dir=write_recording(lab.usb, REC, FILES, participant="A"))
        rows, objects = lab.data.list_recordings(), lab.objects(REC)
        detour.proxy.fault = Fault()
        hold.ended.set()
        process.send_signal(signal.SIGCONT)
        told = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()
        process.communicate()

    assert (other.outcome, process.returncode) == ("created", 0), told
    assert (lab.data.list_recordings(), lab.objects(REC)) == (rows, objects)
    (entry,) = lab.data.catalog.entries()
    assert len(entry.log) == 1
    lab.check_invariants()


def test_fault_77_no_request_is_presigned(lab: Lab, detour: Detour):
    """A signature in a URL would be a key to the object for whoever reads a log."""
    detour.interface().ingest(source_dir=write_recording(lab.nas, REC, FILES))
    data = detour.interface()
    data.fold()
    data.download(data.query(), lab.nas.parent / "there")

    assert {seen.request.partition(" ")[0] for seen in detour.proxy.seen} >= {"GET", "PUT"}
    for seen in detour.proxy.seen:
        assert not re.search("signature|credential|token=", seen.request.lower().replace("continuation-token", ""))
        assert "authorization" in seen.headers


def test_fault_79_the_webserver_listens_on_this_machine_only(tmp_path: Path):
    """Anybody who reaches it may report what never happened."""
    stand_in = tmp_path / "dagster"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\n')
    stand_in.chmod(0o700)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "home").mkdir()
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", _DEV, str(tmp_path / "python"), port]

    subprocess.run(command, env=environment, check=True, timeout=60)

    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-h") + 1] == "127.0.0.1"
    assert arguments[arguments.index("-p") + 1] == port


def test_fault_87_nothing_of_the_package_unpickles():
    """What ops hand on lies on a disk that others may write to (what is in it: `test_recording_asset`)."""
    loads_code = {"pickle", "cPickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
    for path in sorted((TESTS.parent / "ursa_pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not loads_code & {name.partition(".")[0] for name in names}, path
