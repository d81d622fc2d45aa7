"""`ursa doctor` as an operator and a script use it: lines as checks end, remedies below them, an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.lab import Lab
from ursa_pipelines.cli.main import app
from ursa_pipelines.objects.parts import has_open_uploads
from ursa_pipelines.objects.unfinished import UnfinishedUploads

KEY = "recordings/rec_20260520_195621_b1dd/camera_a/seg_0000.mp4"
Command = Callable[..., Result]


@pytest.fixture
def doctor(lab: Lab) -> Command:
    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["doctor", *map(str, arguments), "--config", str(lab.config)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def test_a_failure_is_a_line_with_its_remedy_below_it(lab: Lab, doctor: Command):
    assert "FAIL" not in doctor().stdout
    lab.nas.rename(lab.nas.with_name("unplugged"))

    lines = doctor(code=1).stdout.splitlines()

    (failed,) = (number for number, line in enumerate(lines) if line.startswith("FAIL  source nas: "))
    assert lines[failed + 1] == "      To do: Check the cable or the mount, then run it again."
    assert lines[failed + 2].startswith("ok    source usb: 0 recordings")
    assert ", 1 failed" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_as_json_the_checks_are_items_and_the_exit_code_is_the_process_s(lab: Lab, doctor: Command):
    lab.nas.rename(lab.nas.with_name("unplugged"))

    document = json.loads(doctor("--json", code=1).stdout)

    (failed,) = (item for item in document["items"] if item["state"] == "failed")
    assert set(failed) == {"name", "state", "told", "remedy"}
    assert (failed["name"], document["summary"]["failed"], document["exit_code"]) == ("source nas", 1, 1)


def test_idle_uploads_are_ended_beside_the_document(lab: Lab, doctor: Command):
    uploads = UnfinishedUploads(lab.raw, lab.assets)
    upload = uploads.open(KEY, size=10 * 1024**2, sha256="0" * 64, part_size=5 * 1024**2)
    upload.send(1, memoryview(bytes(5 * 1024**2)))

    told = doctor("--clean-uploads", "--yes").stdout
    assert "0 unfinished uploads ended" in told
    assert "unfinished uploads: 1 with 5.2 MB stored" in told
    ended = doctor("--clean-uploads", "--idle-hours", "0", "--yes", "--json")

    assert f"ended {KEY}" in ended.stderr
    told = {item["name"]: item["told"] for item in json.loads(ended.stdout)["items"]}
    assert told["unfinished uploads"] == "none"
    assert uploads.survey() == []
    assert not has_open_uploads(lab.raw, KEY)
